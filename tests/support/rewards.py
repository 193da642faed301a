"""Rewards from source text, groups to score, and the processes that a grader leaves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from drpo_cli import plugins
from drpo_cli.plugins import Selected, absolute
from drpo_cli.rewards.grading.grader import Graded, Grader
from drpo_cli.types import Group, Prompt, Rollout

HEAD = "from __future__ import annotations\n"
PATIENCE = 60.0  # seconds after which a test fails


class Own:
    """Selects a reward from source text, as a spec does; each is in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = 0

    def __call__(
        self, source: str, name: str = "fn", head: str = HEAD, **options: object
    ) -> Selected[Any]:
        file = f"./r{self.files}.py"
        self.files += 1
        (self.folder / file).write_text(head + source)
        type = absolute(f"{file}:{name}", self.folder)
        defaults = {"workers": 1, "timeout_s": 60.0, "tries": 1}
        config = plugins.load("rewards", type).Config.model_validate(defaults | options)
        return Selected("rewards", type, config)


def group(
    *texts: str,
    id: str = "own/3",
    answer: str | None = "4",
    rewards: tuple[str, ...] | None = None,
    **metadata: Any,
) -> Group:
    """A group of responses with one token per character; those of more than 3 are truncated."""
    prompt = Prompt(id, "2+2=", (1, 2), answer, metadata or {"level": "easy"}, rewards)
    rollouts = (Rollout((7,) * len(t), (-0.1,) * len(t), t, len(t) > 3) for t in texts)
    return Group(prompt, tuple(rollouts))


def graded(
    selected: Iterable[Selected[Any]], groups_P: list[Group], forgiving: bool = False
) -> Graded:
    """Grades the groups with a new grader."""
    with Grader(list(selected), forgiving=forgiving) as grader:
        return grader.score(groups_P)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Returns as soon as the condition holds; fails after a long time."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def wait_until_gone(pids: Iterable[int]) -> None:
    """Returns once none of the processes runs."""
    left = list(pids)
    wait_until(lambda: not any(map(is_alive, left)), f"some of {left} are still there")


def descendants(pid: int | None = None) -> list[int]:
    """The processes that a process (this one) started, and theirs."""
    return [child.pid for child in psutil.Process(pid or os.getpid()).children(recursive=True)]


def numbers_in(path: Path) -> list[int]:
    """The numbers in a file, such as process ids."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []
