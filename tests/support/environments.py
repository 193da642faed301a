"""Environments from source text, and what their episodes answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drpo_cli import plugins
from drpo_cli.environments.sessions.contract import Environment, prepare
from drpo_cli.environments.sessions.messages import Answer
from drpo_cli.environments.sessions.pool import Environments, Session
from drpo_cli.plugins import Selected, absolute
from drpo_cli.types import Action, Row
from support.rewards import PATIENCE

HEAD = "from drpo_cli.environments import Action, Message, Row, Step\n"


class Own:
    """Prepares an environment from source text, as a spec selects it; each in its own file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = 0

    def __call__(
        self, source: str, name: str = "Env", head: str = HEAD, **options: Any
    ) -> Environment:
        file = f"./e{self.files}.py"
        self.files += 1
        (self.folder / file).write_text(head + source)
        type = absolute(f"{file}:{name}", self.folder)
        defaults = {"workers": 1, "timeout_s": 60.0}
        config = plugins.load("environments", type).Config.model_validate(defaults | options)
        return prepare(Selected("environments", type, config))


@contextmanager
def opened(*environments: Environment) -> Iterator[Environments]:
    """The environments with their processes, which end with the block."""
    pool = Environments(environments)
    try:
        yield pool
    finally:
        pool.close()


class Shared:
    """Environments from source texts in one server, by name; each has one process."""

    def __init__(self, own: Own, sources: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
        self._index = {name: index for index, name in enumerate(sources)}
        chosen = [own(source, **options) for source, options in sources.values()]
        self.pool = Environments(chosen)

    def open(self, name: str, row: Row, seed: int = 1) -> Session:
        """Begins an episode; whoever calls this closes it, as another may wait for its place."""
        return self.pool.open(self._index[name], row, seed)


def row(prompt: str = "p", **metadata: Any) -> Row:
    """A row of a data set."""
    return Row("own/1", prompt, ({"role": "user", "content": prompt},), "4", metadata)


def result(future: Future[Answer]) -> Answer:
    """The answer; fails after a long time."""
    return future.result(PATIENCE)


def texts(answer: Answer) -> list[str]:
    """What the policy sees; fails when the call did."""
    assert answer.failure is None, answer.failure
    return [message["content"] for message in answer.messages]


def play(session: Session, *actions: str) -> list[Answer]:
    """The answers to `start` and to the actions, one after the other."""
    return [result(session.first), *(result(session.step(Action(text))) for text in actions)]
