"""What is wrong with a spec, and where the user wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from drpo_cli import secrets
from drpo_cli.errors import UserError
from drpo_cli.spec.positions import KeyPath, Lines, Place, Span

Severity = Literal["error", "warning"]
Origin = Literal["file", "--set", "preset"]
OVERRIDE = "--set "


@dataclass(frozen=True)
class Problem:
    """A mistake or a warning.

    key     the key it is about
    what    what is wrong, and how to fix it
    also    other keys that it depends on
    on_key  whether the key itself is wrong, not its value
    at      its place in the text, where that is not the place of `key`
    """

    key: KeyPath
    what: str
    also: tuple[KeyPath, ...] = ()
    on_key: bool = False
    at: Span | None = None


@dataclass(frozen=True)
class Diagnostic:
    """A problem with its place, as it is shown.

    line, column  count from 1; None where there is no such place: for a file that cannot be read,
                  and (line only) for an override, whose columns count in `source`
    end_column    one past the last character
    source        the line, or the override; None where the problem is in no line
    origin        what set the value
    """

    severity: Severity
    file: str
    key: str
    message: str
    line: int | None = None
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None
    source: str | None = None
    origin: Origin = "file"

    def __str__(self) -> str:
        """`where: key: what; what to do`."""
        origin = " (from the preset)" if self.origin == "preset" else ""
        return f"{self.where}: {f'{self.key}{origin}: ' if self.key else ''}{self.message}"

    @property
    def on_command_line(self) -> bool:
        """Whether it is in an override, which has no line."""
        return self.line is None and self.source is not None

    @property
    def where(self) -> str:
        """`file:line:column`, or the override."""
        if self.on_command_line:
            return str(self.source)
        place = f":{self.line}:{self.column}" if self.line is not None else ""
        return f"{self.file}{place}"


class SpecError(UserError):
    """Everything that is wrong with a spec, in file order, and the warnings.

    The message has one line per mistake; `note` follows at its end.
    """

    def __init__(
        self,
        problems: Sequence[Diagnostic],
        warnings: Sequence[Diagnostic] = (),
        note: str = "",
    ) -> None:
        super().__init__("\n".join([*map(str, problems), *([note] if note else [])]))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        self.note = note


@dataclass(frozen=True)
class Override:
    """A `--set`, and the places of its key, its value and the keys inside its value."""

    text: str
    key: Span
    value: Span
    inner: Mapping[KeyPath, Place] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """What a spec was read from; gives every problem its place.

    name       the file
    places     where each key of `text` stands
    overrides  each `--set` by the key that it sets
    preset     the keys that the preset sets; their place is that of the key `preset`
    note       a sentence for the end of an error
    """

    name: str
    text: str = ""
    places: Mapping[KeyPath, Place] = field(default_factory=dict)
    overrides: Mapping[KeyPath, Override] = field(default_factory=dict)
    preset: Set[KeyPath] = frozenset()
    note: str = ""

    @cached_property
    def lines(self) -> Lines:
        """The lines of the text."""
        return Lines(self.text)

    def error(self, problems: Iterable[Problem], warnings: Iterable[Problem] = ()) -> SpecError:
        """The error that reports all of them."""
        found = self.diagnostics(problems)
        return SpecError(found, self.diagnostics(warnings, "warning"), self.note)

    def diagnostics(
        self, problems: Iterable[Problem], severity: Severity = "error"
    ) -> list[Diagnostic]:
        """Each problem with its place, in file order; those in overrides last, none twice."""
        placed = sorted((self._place(p, severity) for p in problems), key=lambda found: found[0])
        return list(dict.fromkeys(found for _, found in placed))

    def origin(self, key: KeyPath) -> Diagnostic | None:
        """What set the value of a key, as a diagnostic without a message; None for a default."""
        known = key in self.preset or key in self.places or self._override(key) is not None
        return self._place(Problem(key, ""), "warning")[1] if known else None

    def _override(self, key: KeyPath) -> tuple[int, KeyPath] | None:
        for order, path in reversed(list(enumerate(self.overrides))):
            if key[: len(path)] == path:
                return order, path
        return None

    def _place(self, problem: Problem, severity: Severity) -> tuple[tuple[int, ...], Diagnostic]:
        origin: Origin = "preset" if problem.key in self.preset else "file"
        common: dict[str, Any] = {
            "severity": severity,
            "file": self.name,
            "key": key_text(problem.key),
            "message": secrets.mask_urls(problem.what),
        }
        keys = [("preset",) if k in self.preset else k for k in (problem.key, *problem.also)]
        if problem.at is None:
            for key in keys:
                if (found := self._override(key)) is not None:
                    place = _within(self.overrides[found[1]], key[len(found[1]) :], problem.on_key)
                    by: Origin = "preset" if origin == "preset" else "--set"
                    return (1, found[0]), Diagnostic(**common, **place, origin=by)
        span = problem.at or self._span(keys, problem.on_key)
        if span is None:
            return (0, 1, 1), Diagnostic(**common, line=1, column=1, origin=origin)
        line, column = self.lines.position(span.start)
        end_line, end_column = self.lines.position(span.end)
        common |= {"line": line, "column": column, "end_line": end_line, "end_column": end_column}
        common["source"] = secrets.mask_urls(self.lines.line(line), whole=True)
        return (0, line, column), Diagnostic(**common, origin=origin)

    def _span(self, keys: list[KeyPath], on_key: bool) -> Span | None:
        """The place of the first key that is written, else of the innermost table of the first."""
        written = [key for key in keys if key in self.places]
        if written:
            place = self.places[written[0]]
            return place.key if on_key and written[0] == keys[0] else place.value
        key = keys[0]
        while key and key not in self.places:
            key = key[:-1]
        return self.places[key].key if key else None


def _within(override: Override, key: KeyPath, on_key: bool) -> dict[str, Any]:
    """The columns of a key in an override that sets it or a table around it."""
    span = override.key if on_key and not key else override.value
    while key:
        if key in override.inner:
            place = override.inner[key]
            span = place.key if on_key else place.value
            break
        key = key[:-1]
    shift = len(OVERRIDE) + 1
    return {
        "column": span.start + shift,
        "end_column": span.end + shift,
        "source": f"{OVERRIDE}{secrets.mask_urls(override.text, whole=True)}",
    }


def key_text(key: KeyPath) -> str:
    """`("data", 0, "path")` as `data[0].path`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")
