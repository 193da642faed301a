"""An environment that takes its time: row 15 plays it with a pause, and without one."""

from __future__ import annotations

import asyncio
import random

from drpo_cli.environments import EnvironmentSettings, Row, Step


class Sleeping:
    """Answers each turn after `pause_s` seconds; over after `turns` of them."""

    class Config(EnvironmentSettings):
        """Options of the pause."""

        pause_s: float = 0.0
        """Seconds before each answer."""
        turns: int = 4
        """Turns of an episode."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._left = config.turns

    async def start(self, row: Row, rng: random.Random) -> str:
        """The row's prompt, at once."""
        return row.prompt

    async def step(self, action: str) -> Step:
        """Sleeps, and says the same each time."""
        await asyncio.sleep(self._config.pause_s)
        self._left -= 1
        return Step("And then?", done=self._left == 0)
