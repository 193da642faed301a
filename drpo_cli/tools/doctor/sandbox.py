"""What keeps the code in that a model writes, for rewards that run it."""

from __future__ import annotations

from collections.abc import Iterator

from drpo_cli.errors import UserError
from drpo_cli.rewards.sandbox.run import find_backend, stops
from drpo_cli.tools.doctor.findings import Finding, ok, warning, wrong

_FIX = "install bubblewrap (apt-get install bubblewrap), and see docs/sandbox.md for containers"


def sandbox(needed: str | None) -> Iterator[Finding]:
    """Which backend works; `needed` is the one a reward asks for, `none` where no reward runs code.

    Without a spec, `needed` is None: whatever works is told.
    """
    try:
        find_backend("bubblewrap")
    except UserError as error:
        refusal = str(error)
    else:
        yield ok("sandbox", "bubblewrap works")
        return
    if needed == "bubblewrap":
        yield wrong("sandbox", refusal, _FIX)
        return
    try:
        backend = find_backend("plain")
    except UserError as error:
        if needed == "none":
            yield ok("sandbox", "none works; no reward of this spec runs code")
        else:
            yield wrong("sandbox", f"{refusal}; {error}", _FIX)
        return
    lets = ", ".join(name for name, stopped in stops(backend).items() if not stopped)
    text = f"{backend} works, bubblewrap does not: it does not keep code from: {lets}"
    if needed == "none":
        yield ok("sandbox", f"{backend} works; no reward of this spec runs code")
    else:
        yield warning("sandbox", f"{text} ({_why(refusal)})", _FIX)


def _why(refusal: str) -> str:
    _, _, reason = refusal.partition("bubblewrap: ")
    return reason.partition(");")[0] or refusal
