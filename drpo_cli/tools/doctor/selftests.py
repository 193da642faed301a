"""The loss of DRPO and a sum over two processes, made on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

from drpo_cli.tools.doctor.findings import Finding, ok, warning, wrong
from drpo_cli.tools.doctor.probe import Answer, ask

ALL_REDUCE_S = 45.0
_EXACT = 1e-10
_SUM = 3.0
_MEET = "unset GLOO_SOCKET_IFNAME and proxies, or set GLOO_SOCKET_IFNAME=lo; mend /etc/hosts"


def loss(training: Answer) -> Iterator[Finding]:
    """Whether autograd's gradient of the DRPO loss is −A r w."""
    check = "DRPO loss"
    if "loss" not in training.said:
        yield warning(check, "not tried: torch fails before it", "mend torch first (above)")
    elif training.said["loss"] <= _EXACT:
        yield ok(check, f"its gradient is −A r w, to {training.said['loss']:.0e}")
    else:
        found = f"its gradient is off −A r w by {training.said['loss']:.2g}"
        yield wrong(check, found, "torch computes wrongly: install it again, try another machine")


def ask_all_reduce(seconds: float = ALL_REDUCE_S) -> Answer:
    """Starts two ranks as `drpo train` does; they have so many seconds."""
    return ask("drpo_cli.tools.doctor.probes.all_reduce", seconds=seconds)


def all_reduce(answer: Answer) -> Iterator[Finding]:
    """Whether two processes meet and add up; where they do not, how far they came."""
    check, said = "all-reduce", answer.said
    backend = said.get("backend")
    if answer.fine and said.get("total") == _SUM:
        yield ok(check, f"2 processes over {backend}, {1000 * said['seconds']:.1f} ms")
    elif answer.fine:
        found = f"2 processes over {backend} add 1 and 2 up to {said.get('total')}"
        yield wrong(check, found, "try another machine; report it")
    elif "backend" not in said:
        yield warning(check, f"not tried: {answer.reason}", "mend torch first (above)")
    else:
        stage = said.get("0", "not started")
        name = os.environ.get("GLOO_SOCKET_IFNAME")
        given = f", GLOO_SOCKET_IFNAME is {name}" if name else ""
        found = f"2 processes over {backend} {answer.reason} (rank 0: {stage}{given})"
        yield wrong(check, found, _MEET)
