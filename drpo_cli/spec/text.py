"""Reads the text of a spec file."""

from __future__ import annotations

import os
from pathlib import Path

from drpo_cli.spec.problems import Diagnostic, SpecError

MOST_BYTES = 1_000_000
"""Size of the largest file that is taken for a spec."""


def read_text(path: Path) -> str:
    """The text of a spec file, with `\\n` as the only end of a line.

    Raises SpecError for what cannot be a spec: no file, too large, binary, not UTF-8.
    """
    name = os.fsencode(path.absolute())
    shown = Path(name.decode("utf-8", "backslashreplace"))
    if shown != path.absolute():
        raise _refuse(shown, "the name is not valid UTF-8, so no spec can hold it; rename it")
    if path.is_dir():
        raise _refuse(path, f"is a folder; name the spec in it: {path / 'run.toml'}")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise _refuse(path, "there is no such file; `drpo init DIR` writes one") from None
    except OSError as error:
        raise _refuse(path, f"cannot be read: {error.strerror}; check the path") from None
    if len(content) > MOST_BYTES:
        size = max(path.stat().st_size, len(content)) / 1e6
        limit = f"{MOST_BYTES / 1e6:.0f} MB"
        raise _refuse(path, f"is {size:.1f} MB, and a spec is at most {limit}; name the run's TOML")
    if b"\0" in content:
        raise _refuse(path, "is a binary file, and a spec is text; name the run's TOML")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = content.rfind(b"\n", 0, error.start) + 1
        line = content.count(b"\n", 0, error.start) + 1
        column = len(content[start : error.start].decode("utf-8-sig")) + 1
        end = content.find(b"\n", start)
        source = content[start : end if end >= 0 else len(content)].decode(errors="replace")
        what = "is not UTF-8 text; save the file as UTF-8"
        raise _refuse(path, what, line, column, source.rstrip("\r")) from None
    return text.replace("\r\n", "\n")


def _refuse(
    path: Path,
    what: str,
    line: int | None = None,
    column: int | None = None,
    source: str | None = None,
) -> SpecError:
    end = None if column is None else column + 1
    return SpecError(
        [Diagnostic("error", str(path), "", what, line, column, line, end, source=source)]
    )
