"""A server of OpenEnv: guess a number; the real one of openenv-core, on a port that it prints.

`python -m support.openenv_server SESSIONS`
"""

from __future__ import annotations

import random
import socket
import sys
from typing import Any

import uvicorn
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from pydantic import Field


class GuessAction(Action):  # type: ignore[misc]
    guess: int = Field(ge=1, le=100)
    note: str = ""


class GuessObservation(Observation):  # type: ignore[misc]
    hint: str
    tries: int = 0
    notes: dict[str, str] = Field(default_factory=dict)


class GuessGame(Environment[GuessAction, GuessObservation, State]):  # type: ignore[misc]
    """The number comes from the seed; 3 tries, the last of which may be too late."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, **options: Any
    ) -> GuessObservation:
        self._most = int(options.get("most", 100))
        self._number = int(options.get("number") or random.Random(seed).randint(1, self._most))
        self._tries = 0
        return GuessObservation(hint=f"A number from 1 to {self._most}.")

    def step(
        self, action: GuessAction, timeout_s: float | None = None, **options: Any
    ) -> GuessObservation:
        if action.guess == 66:
            raise RuntimeError("66 breaks the game")
        self._tries += 1
        right = action.guess == self._number
        hint = "right" if right else "higher" if action.guess < self._number else "lower"
        return GuessObservation(
            hint=hint,
            tries=self._tries,
            notes={"last": action.note},
            done=right or self._tries == 3,
            reward=1.0 if right else None,
        )

    @property
    def state(self) -> State:
        return State(step_count=self._tries)


def main(sessions: int) -> None:
    """Serves until it is killed."""
    app = create_fastapi_app(GuessGame, GuessAction, GuessObservation, max_concurrent_envs=sessions)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        free.listen(128)
        sys.stdout.write(f"{free.getsockname()[1]}\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[free])


if __name__ == "__main__":
    main(int(sys.argv[1]))
