"""`drpo plan`: estimates a spec on devices that need not exist, and prints the estimate."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.text import Text

from drpo_cli.devices import describe
from drpo_cli.errors import EXIT_RUN_FAILED
from drpo_cli.launch.launcher import prepare_model
from drpo_cli.plan import make_plan
from drpo_cli.rollout.engine.capacity import GIB
from drpo_cli.spec import load
from drpo_cli.spec.overrides import to_toml
from drpo_cli.spec.rules_parallel import tensor_parallel
from drpo_cli.tools.memory.advice import Advice, advise
from drpo_cli.tools.memory.engine import parse_device
from drpo_cli.tools.memory.estimate import Estimate, Phase, estimate
from drpo_cli.tools.memory.traffic import Flow, Links, flows, training_seconds
from drpo_cli.tools.tables import make_console

WIDTH = 80
"""Columns in a pipe."""
LABEL, BAR = 10, 46
"""Columns of a label and of a bar."""
SHOWN = 2**20
"""Bytes; a smaller part gets no entry in the legend."""
PARTS = {
    "weights": ("W", "blue"),
    "optimizer": ("O", "cyan"),
    "critic": ("C", "dark_cyan"),
    "reference": ("R", "steel_blue"),
    "teacher": ("T", "light_steel_blue"),
    "checkpoint": ("c", "sky_blue3"),
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
"""The letter and colour of each part, in the order in which a bar stacks them."""


def plan(
    path: Path,
    overrides: Sequence[str],
    devices: int,
    gpu: str,
    nodes: int,
    links: Links,
    json_out: bool,
    config: Path | None = None,
) -> int:
    """Prints the estimate for `nodes` with `devices` each; returns 0 when it fits, else 1.

    config  the config.json of another model than the spec's
    """
    if config is not None:
        with TemporaryDirectory(prefix="drpo-plan-") as folder:
            model = Path(folder) / config.absolute().parent.name
            model.mkdir()
            shutil.copy(config, model / "config.json")
            more = (f"model.path={to_toml(str(model))}",)
            return plan(path, (*overrides, *more), devices, gpu, nodes, links, json_out)
    device = parse_device(gpu, devices)

    def estimate_with(more: Sequence[str]) -> Estimate:
        spec = load(path, [*overrides, *more])
        prepare_model(spec.model)
        return estimate(make_plan(spec, devices * nodes), device, nodes)

    logging.getLogger("torch").setLevel(logging.ERROR)  # it warns about the fake process group
    found = estimate_with(())
    advice = [] if found.fits else advise(found, estimate_with)
    if json_out:
        sys.stdout.write(json.dumps(as_dict(found, links, advice), indent=1) + "\n")
    else:
        show(found, links, advice, make_console(width=None if sys.stdout.isatty() else WIDTH))
    return 0 if found.fits else EXIT_RUN_FAILED


def show(found: Estimate, links: Links, advice: Sequence[Advice], console: Console) -> None:
    """Prints a bar per phase, the capacity of the engine, what a sync moves, and the verdict."""
    console.print(_title(found))
    console.print()
    for phase in found.phases:
        console.print(_bar(found, phase))
        console.print(_legend(phase))
    console.print()
    for label, text in _facts(found, links):
        lines = wrap(text, WIDTH - 1 - LABEL)
        for first, line in zip((label, *[""] * len(lines)), lines, strict=False):
            console.print(Text(f"{first:<{LABEL}} ", style="bold").append(line, style="not bold"))
    console.print()
    for line in _verdict(found, advice):
        console.print(line)


def _title(found: Estimate) -> str:
    nodes = f"{found.nodes} nodes × " if found.nodes > 1 else ""
    return (
        f"{Path(found.plan.spec.model.path).name}: {found.parameters / 1e9:.2f} billion weights, "
        f"on {nodes}{found.plan.world // found.nodes} × {found.device.name} of "
        f"{_gib(found.device.bytes)} GiB; per device:"
    )


def _bar(found: Estimate, phase: Phase) -> Text:
    whole = max(found.device.bytes, found.tightest.total)
    line = Text(f"{phase.name:<{LABEL}} ")
    drawn, total = 0, 0
    for part, size in _parts(phase):
        total += size
        end = round(total / whole * BAR)
        letter, colour = PARTS[part]
        line.append(letter * (end - drawn), style=f"on {colour}")
        drawn = end
    line.append("·" * (round(found.device.bytes / whole * BAR) - drawn))
    line.append(" " * (BAR + LABEL + 1 - len(line)))
    over = phase.total > found.device.bytes
    line.append(f" {_gib(phase.total):>6} GiB", style="bold red" if over else "")
    return line.append(" too much" if over else "")


def _legend(phase: Phase) -> Text:
    parts = [f"{PARTS[part][0]} {part} {_gib(n)}" for part, n in _parts(phase) if n >= SHOWN]
    # a part's name and size stay on one line: wrap does not see the spaces
    text = ", ".join(parts).replace(" ", "\0").replace(",\0", ", ")
    lines = wrap(text, WIDTH - 2 - LABEL, break_on_hyphens=False)
    shown = "\n".join(f"{'':{LABEL}} {line}" for line in lines)
    return Text(shown.replace("\0", " "), style="dim")


def _parts(phase: Phase) -> list[tuple[str, int]]:
    return [(part, phase.parts[part]) for part in PARTS if phase.parts.get(part)]


def _facts(found: Estimate, links: Links) -> Iterator[tuple[str, str]]:
    """Rows of label and text: the batch, the cache, the sync, main memory, the notes."""
    plan, rollout = found.plan, found.plan.spec.rollout.config
    per_device = plan.sequences_per_step // plan.world
    full, half = found.at_once
    tokens = found.engine.cache * found.lengths.total // max(1, found.sequence)
    ranks = tensor_parallel(plan.spec)
    of_engine, sharers = per_device * ranks, "device" if ranks == 1 else f"{ranks} devices"
    most = getattr(rollout, "max_sequences", of_engine)
    limit = f", {most:,} at a time (max_sequences)" if most < of_engine else ""
    yield (
        "micro-batch",
        f"{found.batch_tokens:,} tokens, {found.microbatches:,} per update of full-length "
        f"sequences, {plan.rows.text}; "
        f"{describe(plan.spec.train, found.device.kind, plan.spec.model.dtype, plan.rows.padded)}",
    )
    yield (
        "KV cache",
        f"{_gib(found.engine.cache)} GiB = {tokens:,} tokens: at once {full:,} sequences of "
        f"{found.lengths.total:,}, or {half:,} of half that length; a step has {of_engine:,} per "
        f"{sharers}{limit}",
    )
    move = found.transfer
    between = f", {_gib(move.nodes)} GiB of it between nodes" if found.nodes > 1 else ""
    yield (
        "sync",
        f"{_gib(move.weights)} GiB into each engine; {_gib(move.received)} GiB received by "
        f"each device, {_gib(move.links)} GiB over all links{between}",
    )
    yield from _traffic(found, links)
    if found.device.cuda:
        moments = f", {_gib(found.offloaded)} GiB for moments" if found.offloaded else ""
        others = f", {_gib(found.frozen)} GiB for other models" if found.frozen else ""
        copied = f", {_gib(found.copied)} GiB while a checkpoint is written" if found.copied else ""
        text = f"{_gib(found.loading)} GiB of a node's main memory while the model is read"
        yield "main", f"{text}{moments}{others}{copied}"
    yield from (("note", note) for note in found.notes)


def _traffic(found: Estimate, links: Links) -> Iterator[tuple[str, str]]:
    """Rows of what a step moves between devices, how long that takes, and its share."""
    moved = flows(found.work, found.layout)
    for label, flow in zip(("traffic", *[""] * len(moved)), moved, strict=False):
        yield label, _flow(flow, links)
    times = [flow.seconds(links) for flow in moved]
    known = sum(one for one in times if one is not None)
    if not moved or known == 0 or None in times:
        return
    text = f"at least {known:,.1f} s of communication per step"
    if computing := training_seconds(found.work, links):
        share = known / (known + computing)
        text += (
            f" beside {computing:,.1f} s of training's matrix products: {share:.0%} of their sum "
            f"if nothing overlaps"
        )
    yield "", text


def _flow(flow: Flow, links: Links) -> str:
    between = f", {_gib(flow.network)} GiB into each node" if flow.network else ""
    taken = flow.seconds(links)
    time = f": {taken:,.1f} s" if taken is not None else ""
    return f"{flow.name}: {_gib(flow.device)} GiB into each device{between} per step{time}"


def _verdict(found: Estimate, advice: Sequence[Advice]) -> list[str]:
    """Whether it fits; if not, by how much, and what saves the most memory."""
    tight = found.tightest
    if found.fits:
        return [f"fits: {_gib(found.free)} GiB free in the tightest phase ({tight.name})"]
    what = (
        f"{tight.name} needs {_gib(tight.total)} GiB of {_gib(found.device.bytes)}"
        if found.free < 0
        else "the KV cache cannot hold one sequence of rollout.context_length"
        + ("" if found.plan.spec.rollout.config.context_length else ", the model's limit")
    )
    lines = [f"does not fit: {what}"]
    for i, one in enumerate(advice):
        ends = ", and then it fits" if one.estimate.fits else ""
        head = "           " if i else "most room: "
        saved = f"{'+' if one.room >= 0 else '−'}{_gib(abs(one.room))} GiB"
        lines.append(f"{head}{' '.join(one.overrides)} ({saved}{ends})")
    if not any(one.estimate.fits for one in advice):
        what = "none of these makes it fit" if advice else "no setting saves much memory"
        lines.append(f"{what}: use more or larger devices, or a smaller model")
    return lines


def _gib(size: int) -> str:
    value = size / GIB
    return f"{value:,.1f}" if abs(value) >= 0.95 else f"{value:.2f}"


def as_dict(found: Estimate, links: Links, advice: Sequence[Advice]) -> dict[str, Any]:
    """Everything that is shown, as JSON values; sizes in bytes."""
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
        "traffic_per_step": [
            {**vars(flow), "seconds": flow.seconds(links)}
            for flow in flows(found.work, found.layout)
        ],
        "training_seconds_per_step": training_seconds(found.work, links),
        "loading_bytes_per_node": found.loading,
        "offloaded_bytes_per_node": found.offloaded,
        "other_models_bytes_per_node": found.frozen,
        "checkpoint_bytes_per_node": found.copied,
        "notes": list(found.notes),
        "advice": [
            {"set": list(one.overrides), "room": one.room, "fits": one.estimate.fits}
            for one in advice
        ],
    }
