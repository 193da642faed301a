"""What a step of the GPU bench finds, and how it takes time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Size = Literal["full", "smoke"]
"""`full` needs a GPU; `smoke` is tiny and shows on any device that the steps run."""

Findings = Iterator["Finding"]


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    what   the quantity in words
    value  a number in `unit`, or a text
    limit  the bound that it must keep, such as "≤ 1e-5"; empty for a figure without one
    ok     whether it keeps the bound; None where there is none
    """

    what: str
    value: float | str
    unit: str = ""
    limit: str = ""
    ok: bool | None = None


def at_most(what: str, value: float, limit: float, unit: str = "") -> Finding:
    """A figure with an upper bound; NaN does not keep it."""
    return Finding(what, value, unit, f"≤ {limit:g}", value <= limit)


def at_least(what: str, value: float, limit: float, unit: str = "") -> Finding:
    """A figure with a lower bound; NaN does not keep it."""
    return Finding(what, value, unit, f"≥ {limit:g}", value >= limit)


def holds(what: str, found: bool, why_not: str = "") -> Finding:
    """A statement that must be true."""
    return Finding(what, "yes" if found else f"no {why_not}".strip(), "", "yes", found)


def seconds(work: Callable[[], object], device: Any, times: int = 5, warm: int = 2) -> float:
    """The median seconds of `work` on a device, after `warm` calls that do not count."""
    taken = []
    for _ in range(warm + times):
        wait_for(device)
        began = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[warm:])


def wait_for(device: Any) -> None:
    """Waits until the device has done everything that was started."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(work: Callable[[], object], device: Any) -> float:
    """The most bytes of tensors on a GPU during `work`; NaN on a CPU, where torch counts none."""
    import torch

    if device.type != "cuda":
        work()
        return float("nan")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    wait_for(device)
    return float(torch.cuda.max_memory_allocated(device))
