"""Renders HTML pages that open from disk and fetch nothing: style and scripts are inside.

What a model wrote is never markup or script: templates escape every value, data is JSON without a
`<`, and the Content-Security-Policy allows only the scripts whose hashes it lists.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from drpo_cli.report.plain import format_number

PACKAGE = Path(__file__).parents[1]
TEMPLATES = PACKAGE / "report" / "templates"

# Characters that are invisible or reverse the text are replaced: ␛ for an escape, [U+202E]
CONTROLS: dict[int, str] = {c: chr(0x2400 + c) for c in range(0x20) if c not in b"\t\n\r"}
CONTROLS |= {0x7F: "␡"}
CONTROLS |= {c: f"[U+{c:04X}]" for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


Value = str | float | None
"""What a cell shows: see `show_value`."""


@dataclass(frozen=True)
class Table:
    """A table of texts and numbers; `kinds` are classes of the style sheet by column.

    `n` numbers, set to the right; `k` names and other short texts; `t` long texts.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    kinds: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """The class of each column, in order."""
        return [self.kinds.get(name, "") for name in self.columns]


def render(template: str, title: str, scripts: Sequence[str] = (), **values: Any) -> str:
    """Renders a page from a template of the package that extends `base.html.jinja`.

    `template` is a path in the package; only `scripts` may run in the page.
    """
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            policy=Markup(policy),
            style=Markup(read_asset("page.css")),
            scripts=[Markup(script) for script in scripts],
            **values,
        )
    )


def read_asset(name: str) -> str:
    """Reads a style sheet or script of the templates."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def show_value(value: Any) -> Any:
    """A number in four digits, None as a dash, any other value with visible control characters."""
    if isinstance(value, Markup):
        return value
    if value is None or isinstance(value, int | float):
        return format_number(value)
    return str(value).translate(CONTROLS)


def save(path: Path, text: str) -> None:
    """Writes a page in one move: until then, and where it fails, the old one stays whole.

    Raises OSError, as on a full disk.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        # A completion may have half a surrogate pair, which UTF-8 cannot encode
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    for left in path.parent.iterdir():  # by a writer that was killed
        pid = left.name.removeprefix(f"{path.name}.").removesuffix(".partial")
        if left.name == f"{path.name}.{pid}.partial" and pid.isdecimal() and not _alive(int(pid)):
            left.unlink(missing_ok=True)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=True,
        finalize=show_value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}
    return environment


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _alive(pid: int) -> bool:
    from psutil import pid_exists

    return bool(pid_exists(pid))
