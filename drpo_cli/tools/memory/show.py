"""The plan in a terminal: 80 columns, legible in a pipe and without colour."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.text import Text

from drpo_cli.tools.memory.advice import Advice
from drpo_cli.tools.memory.device import GIB
from drpo_cli.tools.memory.estimate import Estimate, Phase

# letter and colour of each part, in the order they are stacked
PARTS = {
    "weights": ("W", "blue"),
    "optimizer": ("O", "cyan"),
    "critic": ("C", "dark_cyan"),
    "reference": ("R", "steel_blue"),
    "gradients": ("G", "magenta"),
    "gathered": ("g", "purple"),
    "activations": ("A", "green"),
    "log-probs": ("L", "chartreuse4"),
    "engine weights": ("E", "yellow"),
    "KV cache": ("K", "dark_orange"),
    "engine's work": ("w", "gold3"),
    "engine asleep": ("s", "tan"),
    "allowance": ("+", "bright_black"),
}
NAME, BAR = 10, 46
SHOWN = 2**20  # bytes; a smaller part is not named


def show(found: Estimate, advice: list[Advice], console: Console) -> None:
    """Prints the bars, what the engine can hold, what a sync moves, and the verdict."""
    console.print(_title(found))
    console.print()
    for phase in found.phases:
        console.print(_bar(found, phase))
        console.print(_legend(phase))
    console.print()
    for label, text in facts(found):
        lines = wrap(text, 79 - NAME)
        for first, line in zip((label, *[""] * len(lines)), lines, strict=False):
            console.print(Text(f"{first:<{NAME}} ", style="bold").append(line, style="not bold"))
    console.print()
    for line in verdict(found, advice):
        console.print(line)


def _title(found: Estimate) -> str:
    devices = found.plan.world // found.nodes
    nodes = f"{found.nodes} nodes × " if found.nodes > 1 else ""
    return (
        f"{Path(found.plan.spec.model.path).name}: {found.parameters / 1e9:.2f} billion weights, "
        f"on {nodes}"
        f"{devices} × {found.device.name} of {_gib(found.device.bytes)} GiB; each device:"
    )


def _bar(found: Estimate, phase: Phase) -> Text:
    whole = max(found.device.bytes, found.tightest.total)
    line = Text(f"{phase.name:<{NAME}} ")
    drawn, upto = 0, 0
    for part, size in _ordered(phase):
        upto += size
        end = round(upto / whole * BAR)
        letter, colour = PARTS[part]
        line.append(letter * (end - drawn), style=f"on {colour}")
        drawn = end
    line.append("·" * (round(found.device.bytes / whole * BAR) - drawn))
    line.append(" " * (BAR + NAME + 1 - len(line)))
    over = phase.total > found.device.bytes
    line.append(f" {_gib(phase.total):>6} GiB", style="bold red" if over else "")
    return line.append(" too much" if over else "")


def _legend(phase: Phase) -> Text:
    parts = [
        f"{PARTS[part][0]} {part} {_gib(size)}" for part, size in _ordered(phase) if size >= SHOWN
    ]
    lines, line = [], ""
    for part in parts:
        joined = f"{line}, {part}" if line else part
        if len(joined) > 78 - NAME:
            lines.append(line + ",")
            joined = part
        line = joined
    return Text("\n".join(f"{'':{NAME}} {text}" for text in [*lines, line]), style="dim")


def _ordered(phase: Phase) -> list[tuple[str, int]]:
    return [(part, phase.parts[part]) for part in PARTS if phase.parts.get(part)]


def facts(found: Estimate) -> list[tuple[str, str]]:
    """Rows of label and text: the batch, the cache, the sync, main memory, what was assumed."""
    plan, rollout = found.plan, found.plan.spec.rollout.config
    per_device = plan.sequences_per_step // plan.world
    full, half = found.at_once
    tokens = found.engine.cache * found.lengths.total // max(1, found.sequence)
    move = found.transfer
    rows = [
        (
            "micro-batch",
            f"{found.batch_tokens:,} tokens, {found.microbatches:,} to an update of full-length "
            f"sequences",
        ),
        (
            "KV cache",
            f"{_gib(found.engine.cache)} GiB = {tokens:,} tokens: at once {full:,} sequences of "
            f"{found.lengths.total:,}, or {half:,} of half that; a step has {per_device:,} a "
            f"device" + _limit(rollout, per_device),
        ),
        (
            "sync",
            f"{_gib(move.weights)} GiB into each engine; {_gib(move.received)} GiB received by "
            f"each device, {_gib(move.links)} GiB over all links"
            + (f", {_gib(move.nodes)} GiB of it between nodes" if found.nodes > 1 else ""),
        ),
    ]
    if found.device.cuda:
        rows.append(("main", f"{_gib(found.loading)} GiB of a node's memory to load the model"))
    return [*rows, *(("note", note) for note in found.notes)]


def _limit(rollout: Any, wanted: int) -> str:
    most = getattr(rollout, "max_sequences", wanted)
    return f", {most:,} at a time (max_sequences)" if most < wanted else ""


def verdict(found: Estimate, advice: list[Advice]) -> list[str]:
    """Whether it fits; where not, by how much, and what gives most room."""
    tight = found.tightest
    if found.fits:
        return [f"fits: {_gib(found.free)} GiB free in the tightest phase ({tight.name})"]
    what = (
        f"{tight.name} needs {_gib(tight.total)} GiB of {_gib(found.device.bytes)}"
        if found.free < 0
        else "the KV cache cannot hold one sequence of the engine's context"
    )
    lines = [f"does not fit: {what}"]
    for i, one in enumerate(advice):
        ends = ", and then it fits" if one.estimate.fits else ""
        head = "most room: " if not i else "           "
        given = f"{'+' if one.room >= 0 else '−'}{_gib(abs(one.room))} GiB"
        lines.append(f"{head}{' '.join(one.overrides)} ({given}{ends})")
    if not any(one.estimate.fits for one in advice):
        what = "none of these makes it fit" if advice else "no setting gives room to speak of"
        lines.append(f"{what}: take more or larger devices, or a smaller model")
    return lines


def _gib(size: int) -> str:
    value = size / GIB
    return f"{value:,.1f}" if abs(value) >= 0.95 else f"{value:.2f}"


def as_dict(found: Estimate, advice: list[Advice]) -> dict[str, Any]:
    """Everything shown, as JSON values; sizes in bytes."""
    return {
        "fits": found.fits,
        "device": {"name": found.device.name, "bytes": found.device.bytes},
        "devices": found.plan.world,
        "nodes": found.nodes,
        "parameters": found.parameters,
        "phases": [
            {"name": phase.name, "bytes": phase.total, "parts": dict(phase.parts)}
            for phase in found.phases
        ],
        "tightest": found.tightest.name,
        "free": found.free,
        "micro_batch_tokens": found.batch_tokens,
        "micro_batches_per_update": found.microbatches,
        "kv_cache": {
            "bytes": found.engine.cache,
            "sequence_tokens": found.lengths.total,
            "sequence_bytes": found.sequence,
            "sequences": found.at_once[0],
            "sequences_of_half_the_length": found.at_once[1],
        },
        "sync": vars(found.transfer),
        "loading_bytes_per_node": found.loading,
        "notes": list(found.notes),
        "advice": [
            {"set": list(one.overrides), "room": one.room, "fits": one.estimate.fits}
            for one in advice
        ],
    }
