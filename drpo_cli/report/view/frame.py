"""The view of one run within a rectangle: what does not fit is left out by priority."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.text import Text

from drpo_cli.report.view.follow import Followed
from drpo_cli.report.view.parts import Line, Space, lines
from drpo_cli.report.view.text import head_and_tail, number, tail, visible

SAMPLES = 6  # their priority
MOST_LINES = 4  # of one sample
UNLIMITED = 1000


def frame(run: Followed, width: int, height: int, ascii_only: bool = False) -> list[Text]:
    """At most `height` lines of at most `width` cells."""
    space = Space(max(1, width), ascii_only)
    found = list(lines(run, space))
    shown = _fitting([*found, *_samples(run, space, 1)], height)
    free = height - len(shown)
    if free > 0:  # the samples may have what nothing else wants
        shown = _fitting([*found, *_samples(run, space, min(MOST_LINES, 1 + free // 2))], height)
    for line in shown:
        line.truncate(space.width, overflow="ellipsis")
    return shown


def _fitting(found: list[Line], height: int) -> list[Text]:
    # In the order of the screen; of equal priority the first ones
    order = sorted(range(len(found)), key=lambda i: found[i].priority)
    return [found[i].text for i in sorted(order[: max(0, height)])]


def _samples(run: Followed, space: Space, most: int) -> list[Line]:
    if run.samples is None:
        return []
    best = _sample("best", run.samples.best, space, most)
    if run.samples.best is run.samples.worst:
        return best
    return [*best, *_sample("worst", run.samples.worst, space, most)]


def _sample(name: str, record: Mapping[str, Any], space: Space, most: int) -> list[Line]:
    reward = record.get("reward")
    label = f"{name} {number(reward)}".ljust(space.label)
    if cell_len(label) >= space.width - 1 or space.width < 8:
        return [Line(SAMPLES, Text(label))]
    width = space.width - cell_len(label) - 1
    # What is asked stands at the end of a prompt
    prompt = tail(visible(str(record.get("prompt", ""))), width * most // 3)
    arrow = " → "
    completion = visible(str(record.get("completion", "")))
    room = max(0, width * most - most - cell_len(prompt) - len(arrow))
    text = prompt + arrow + head_and_tail(completion, room)
    chopped = chop_cells(text, max(2, width))[:most]
    heads = [label, *[" " * cell_len(label)] * (len(chopped) - 1)]
    return [
        Line(SAMPLES + (i > 0) * 4, Text.assemble(front, " ", (row, "dim")))
        for i, (front, row) in enumerate(zip(heads, chopped, strict=True))
    ]
