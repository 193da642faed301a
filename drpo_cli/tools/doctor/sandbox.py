"""Checks which sandbox works here, for rewards that run a model's code."""

from __future__ import annotations

from collections.abc import Iterator

from drpo_cli.errors import UserError
from drpo_cli.rewards.sandbox.run import find_backend, stops
from drpo_cli.tools.doctor.findings import Finding, ok, warning, wrong

_FIX = "install bubblewrap (apt-get install bubblewrap), and see docs/sandbox.md for containers"


def sandbox(needed: str | None) -> Iterator[Finding]:
    """Reports which backend works.

    needed  the one that a reward asks for; "none" where no reward runs code; None without a spec
    """
    try:
        find_backend("bubblewrap")
    except UserError as error:
        refusal = error.what
    else:
        yield ok("sandbox", "bubblewrap works")
        return
    if needed == "bubblewrap":
        yield wrong("sandbox", refusal, _FIX)
        return
    try:
        find_backend("plain")
    except UserError as error:
        if needed == "none":
            yield ok("sandbox", "none works; no reward of this spec runs code")
        else:
            yield wrong("sandbox", f"{refusal}; {error.what}", _FIX)
        return
    if needed == "none":
        yield ok("sandbox", "plain works; no reward of this spec runs code")
        return
    not_stopped = ", ".join(name for name, stopped in stops("plain").items() if not stopped)
    reason = refusal.partition("bubblewrap: ")[2].removesuffix(")")
    text = f"plain works, bubblewrap does not ({reason}): plain does not stop {not_stopped}"
    yield warning("sandbox", text, _FIX)
