"""A problem of reasoning-gym with several tries: a wrong answer may be corrected.

For rows of the data source with the same name. An answer with a score below `solved` gets
`feedback` and another try, until one is right or `max_turns` answers were given. The episode's
reward is the value of its last answer,

    v_k = discount^k · score_k        k = 0, 1, … tries before it

and a turn's reward is what it adds, v_k − v_{k−1}: so an episode that a limit ends has the value of
the answer that it had reached. Scores are those of the reward `reasoning_gym`; `info` has the score
of the last answer and the number of tries.
"""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import Field

from drpo_cli.environments import EnvironmentSettings, Message, Row, Step
from drpo_cli.gym import scores
from drpo_cli.settings import Count, Fraction

IMPORTS = ("reasoning_gym",)
NEEDS = "rows of the data source reasoning_gym"


class Config(EnvironmentSettings):
    """Options of the tries."""

    max_turns: Count = 3
    """Most tries, with the first one."""
    workers: Count = 2
    """Processes per rank. Each has `concurrency` episodes at the same time."""
    tag: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    """Score only the text of the last `<tag>…</tag>`; the whole answer when not set."""
    solved: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Score from which an answer is right, so that the episode ends."""
    discount: Fraction = 1.0
    """Factor of the score for each try before; below 1, the first try is worth most."""
    feedback: str = "That is not right. Try again."
    """What the model reads after a wrong answer. `{score}` stands for its score, and `{left}` for
    the tries that are left."""


class Environment:
    """One problem, and the tries at it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._tries = 0
        self._value = 0.0

    async def start(self, row: Row, rng: random.Random) -> str | list[Message]:
        """The problem itself."""
        self._metadata = row.metadata
        return row.prompt if len(row.messages) < 2 else list(row.messages)

    async def step(self, action: str) -> Step:
        """Scores an answer. Raises UserError for a row of another source."""
        score = scores.score(action, self._metadata, self._config.tag)
        before, self._value = self._value, self._config.discount**self._tries * score
        self._tries += 1
        left = self._config.max_turns - self._tries
        done = score >= self._config.solved or left <= 0
        feedback = self._config.feedback.replace("{score}", f"{score:.2f}")
        return Step(
            observation="" if done else feedback.replace("{left}", str(left)),
            reward=self._value - before,
            done=done,
            info={"score": score, "tries": self._tries},
        )
