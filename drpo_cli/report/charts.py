"""Line charts over steps, as one drawing for a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#1f5fa8", "#c8641e", "#3d8f5f", "#8a4fa0", "#8c8c8c", "#b03a5b", "#6b7a1f")
ROW_INCHES = 3.0
MARGIN_INCHES = 0.35

Series = Sequence[tuple[float, float]]
"""Points (step, value)."""


@dataclass(frozen=True)
class Panel:
    """One chart; with several series they are told apart by a legend."""

    title: str
    series: Mapping[str, Series]
    log: bool = False


def draw(panels: Sequence[Panel]) -> str:
    """The panels in two columns, as SVG."""
    from matplotlib.figure import Figure

    rows = -(-len(panels) // 2)
    height = ROW_INCHES * rows
    figure = Figure(figsize=(10, height))
    # A fixed layout: a fitted one takes longer than many a run's step.
    edge = MARGIN_INCHES / height
    figure.subplots_adjust(left=0.06, right=0.98, top=1 - edge, bottom=edge, hspace=0.25)
    grid = figure.subplots(rows, 2, squeeze=False).flat
    for axes, panel in zip(grid, panels, strict=False):
        _fill(axes, panel)
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_visible(False)
    image = io.StringIO()
    figure.savefig(image, format="svg", metadata={"Date": None})
    text = image.getvalue()
    return text[text.index("<svg") :]


def _fill(axes: Axes, panel: Panel) -> None:
    lines = []
    for i, points in enumerate(panel.series.values()):
        x, y = [x for x, _ in points], [y for _, y in points]
        mark = "o" if len(points) == 1 else None  # a line of one point is not seen
        color = COLORS[i % len(COLORS)]
        lines += axes.plot(x, y, color=color, linewidth=1.2, marker=mark, markersize=3)
    # Names are the user's: a dollar sign in one is no formula
    axes.set_title(panel.title, fontsize=10, parse_math=False)
    axes.grid(alpha=0.3)
    if panel.log and any(value for points in panel.series.values() for _, value in points):
        axes.set_yscale("log")
    if len(lines) > 1:
        legend = axes.legend(lines, [str(name) for name in panel.series], fontsize=8, loc="best")
        for text in legend.get_texts():
            text.set_parse_math(False)
