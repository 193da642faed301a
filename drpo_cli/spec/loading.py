"""Reads a spec file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tomli

from drpo_cli.spec import overrides as overriding
from drpo_cli.spec import presets, rules
from drpo_cli.spec.model import Spec
from drpo_cli.spec.positions import scan
from drpo_cli.spec.problems import Source, SpecError
from drpo_cli.spec.read import Reader


def load(path: Path, overrides: Sequence[str] = ()) -> Spec:
    """The run that `path` describes, with `overrides` (`"a.b=v"`) on top.

    Paths in the spec count from its folder and come back absolute. Plugins are imported.
    Raises SpecError with everything that is wrong, in file order.
    """
    path = Path(path)
    text = _text(path)
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        what = f"is not TOML: {error.msg[0].lower()}{error.msg[1:]}; mend this line"
        raise SpecError([f"{path}:{error.lineno}:{error.colno}: {what}"]) from None
    except RecursionError:
        raise SpecError([f"{path}:1:1: nests too deeply; a spec needs three levels"]) from None
    overridden = overriding.apply(document, overrides)
    preset = presets.expand(document)
    source = Source(str(path), scan(text), overridden, preset.keys)
    reader = Reader(document, path.absolute())
    spec = reader.spec()
    partial = bool(reader.problems)
    problems = [*preset.problems, *reader.problems, *rules.broken(spec, partial)]
    if problems:
        raise SpecError(source.lines(problems))
    warnings = tuple(source.lines(rules.doubtful(spec)))
    return replace(spec, preset=preset.name, warnings=warnings)


def _text(path: Path) -> str:
    if path.is_dir():
        raise SpecError([f"{path}: is a folder; name the spec in it: {path / 'run.toml'}"])
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        what = "there is no such file; `drpo init DIR` writes one"
        raise SpecError([f"{path}: {what}"]) from None
    except OSError as error:
        raise SpecError([f"{path}: cannot be read: {error.strerror}; check the path"]) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        what = "is not UTF-8 text; save the file as UTF-8"
        raise SpecError([f"{path}:{line}:{column}: {what}"]) from None
