"""Reads a spec file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tomli

from drpo_cli.spec import overrides as overriding
from drpo_cli.spec import presets, renames, rules
from drpo_cli.spec.model import Spec
from drpo_cli.spec.positions import TooDeepError, scan
from drpo_cli.spec.problems import Diagnostic, Problem, Source, SpecError
from drpo_cli.spec.read import Reader
from drpo_cli.spec.reading import text_of
from drpo_cli.spec.recovery import Recovered, may_be_deep, recover


def load(path: Path, overrides: Sequence[str] = (), checks: Sequence[rules.Rule] = ()) -> Spec:
    """The run that `path` describes, with `overrides` (`"a.b=v"`) on top.

    Paths in the spec count from its folder and come back absolute. Plugins are imported. `checks`
    are further rules that the spec must keep. Raises SpecError with everything that is wrong, in
    file order: what is not TOML is left out, and the rest is checked all the same.
    """
    path = Path(path)
    text = text_of(path)
    found = _parsed(text)
    if not found.sound and (len(found.mistakes) > 2 or text.lstrip()[:1] == "{"):
        raise _no_spec(path, found)
    overridden, astray = overriding.apply(found.document, overrides, found.lost)
    preset = presets.expand(found.document, found.lost)
    source = Source(str(path), text, found.places, overridden, preset.keys, renames.note(path))
    reader = Reader(found.document, path.absolute(), preset.lost)
    spec = replace(reader.spec(), source=source, preset=preset.name)
    reader.forget(spec)
    syntax = [Problem(m.key, m.what, at=m.at) for m in found.mistakes]
    problems = [*syntax, *preset.problems, *reader.problems]
    problems += rules.broken(spec, bool(problems), checks)
    if not problems and not astray:
        return replace(spec, warnings=tuple(source.diagnostics(rules.doubtful(spec), "warning")))
    error = source.error(problems, rules.doubtful(spec, partial=True))
    also = [replace(one, file=str(path)) for one in astray]
    raise SpecError([*error.problems, *also], error.warnings, error.note)


def _parsed(text: str) -> Recovered:
    try:
        if may_be_deep(text):
            return recover(text)
        return Recovered(tomli.loads(text), scan(text))
    except (tomli.TOMLDecodeError, RecursionError, TooDeepError):
        return recover(text)


def _no_spec(path: Path, found: Recovered) -> SpecError:
    what = "is not TOML: not one of its lines is a key or a section; name the run's TOML"
    return SpecError([Diagnostic("error", str(path), "", what)])
