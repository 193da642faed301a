"""What is wrong with a spec, and where the user wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from drpo_cli.errors import UserError
from drpo_cli.spec.positions import KeyPath, Position


class SpecError(UserError):
    """Everything that is wrong with a spec; `problems` holds one line each, in file order."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Problem:
    """One mistake or warning: the key it is about, other keys it comes from, and what it is."""

    key: KeyPath
    what: str
    also: tuple[KeyPath, ...] = ()


@dataclass(frozen=True)
class Source:
    """The text a spec was read from: its file, the positions in it, and the overrides on top.

    The keys in `preset` stand nowhere in it: they come from the key `preset`.
    """

    name: str
    positions: Mapping[KeyPath, Position]
    overrides: Mapping[KeyPath, str]
    preset: Set[KeyPath] = frozenset()

    def lines(self, problems: Sequence[Problem]) -> list[str]:
        """Each problem as `where: key: what`, in file order, those of overrides last."""
        placed = sorted((self._place(p) for p in problems), key=lambda found: found[0])
        return list(dict.fromkeys(line for _, line in placed))

    def _place(self, problem: Problem) -> tuple[tuple[int, ...], str]:
        origin = " (from the preset)" if problem.key in self.preset else ""
        what = f"{key_text(problem.key)}{origin}: {problem.what}"
        keys = [("preset",) if k in self.preset else k for k in (problem.key, *problem.also)]
        for key in keys:
            for order, (path, text) in reversed(list(enumerate(self.overrides.items()))):
                if key[: len(path)] == path:
                    return (1, order), f"--set {text}: {what}"
        written = [key for key in keys if key in self.positions]
        line, column = self._position(written[0] if written else keys[0])
        return (0, line, column), f"{self.name}:{line}:{column}: {what}"

    def _position(self, key: KeyPath) -> Position:
        while key and key not in self.positions:
            key = key[:-1]
        return self.positions.get(key, (1, 1))


def key_text(key: KeyPath) -> str:
    """`("data", 0, "path")` as `data[0].path`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")
