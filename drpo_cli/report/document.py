"""One HTML document that opens from disk and fetches nothing: its style and scripts are inside.

What a model wrote is never markup or script: texts are escaped, data is JSON without a `<`, and the
Content-Security-Policy lets no other script run than those whose hashes it has.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from drpo_cli.report.elements import escaped

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title><style>{style}</style></head>
"""


def document(title: str, body: str, plots: Mapping[str, Any]) -> str:
    """The page's text; `plots` is what BokehJS draws."""
    scripts = [_bokeh(), _asset("page.js")]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = HEAD.format(policy=policy, title=escaped(title), style=_asset("page.css"))
    data = f'<script type="application/json" id="plots">{_json(plots)}</script>'
    run = "".join(f"<script>{script}</script>\n" for script in scripts)
    return f"{head}<body>\n{body}\n{data}\n{run}</body></html>\n"


def save(path: Path, text: str) -> None:
    """Writes a page in one move: an older one stays whole until then, and where it fails.

    Raises OSError when the disk does not take it.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        # A completion may hold half a surrogate pair, which UTF-8 cannot
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    for left in path.parent.iterdir():  # by a writer that was killed
        pid = left.name.removeprefix(f"{path.name}.").removesuffix(".partial")
        if left.name == f"{path.name}.{pid}.partial" and pid.isdecimal() and not _alive(int(pid)):
            left.unlink(missing_ok=True)


def _json(value: Any) -> str:
    text = json.dumps(value)  # ASCII: also U+2028 and U+2029 are escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _bokeh() -> str:
    from bokeh.resources import Resources

    script: str = Resources(mode="inline", components=["bokeh"], minified=True).js_raw[0]
    return script


def _asset(name: str) -> str:
    return files("drpo_cli.report").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _alive(pid: int) -> bool:
    from psutil import pid_exists

    return bool(pid_exists(pid))
