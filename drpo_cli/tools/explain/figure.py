"""The drawing as a file, with a background of its own: a page may be light or dark."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy import linspace

from drpo_cli.errors import UserError
from drpo_cli.terminal import printable
from drpo_cli.tools.explain.curves import Panel, limits

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

COLUMNS = 4
LEGEND_INCHES = 1.15
PAPER, INK, FAINT = "#fbfaf6", "#222222", "#8a8a86"
PULLED: dict[str, Any] = {"color": "#000000", "alpha": 0.06}
COLOURS = "viridis"  # ordered, like μ, and distinct for every kind of colour vision
LIGHTEST = 0.72  # of the colour map: its yellow end is hard to see on a light background
STYLE: Any = {
    "svg.hashsalt": "drpo",  # without it the ids differ from file to file
    "font.size": 8.5,
    "text.parse_math": False,  # a $ in an option is a $
    "text.color": INK,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.4,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
}
NO_DATE = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def write(rows: Sequence[Sequence[Panel]], out: Path) -> None:
    """Draws the panels into a file: one row per advantage, one panel per objective.

    The same call writes the same bytes. Raises UserError when the file cannot be written.
    """
    suffix = out.suffix.lower()
    partial = out.with_name(f".{out.name}.partial")
    with matplotlib.rc_context(STYLE):
        drawn = draw(rows)
        try:
            drawn.savefig(partial, format=suffix[1:], dpi=160, metadata=NO_DATE[suffix])
            partial.rename(out)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise UserError(
                f"--out {out}: cannot be written: {error.strerror}", "choose another file"
            ) from error


def draw(rows: Sequence[Sequence[Panel]]) -> Figure:
    """The figure: objectives side by side, at most four per row, all with the same axes."""
    across, blocks = min(len(rows[0]), COLUMNS), math.ceil(len(rows[0]) / COLUMNS)
    size = (2.35 * max(across, 2), 0.5 + 2.1 * len(rows) * blocks)
    figure = Figure(figsize=size, layout="constrained", facecolor=PAPER)
    grid = figure.subplots(len(rows) * blocks, across, sharex=True, sharey=True, squeeze=False)
    low, high = limits(panel for row in rows for panel in row)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            axes = grid[j // COLUMNS * len(rows) + i, j % COLUMNS]
            axes.set(xlim=(0, 1), ylim=(low - 0.06 * (high - low), high + 0.06 * (high - low)))
            axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
            _panel(axes, panel, (low, high))
            if j % COLUMNS == 0:
                axes.set_ylabel(panel.title)
            if i == 0:
                _title(axes, panel)
            if i == len(rows) - 1:
                axes.set_xlabel("π")
    _legend(figure, rows[0][0])
    return figure


def _panel(axes: Axes, panel: Panel, within: tuple[float, float]) -> None:
    axes.set_axis_on()
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelbottom=True)
    axes.axhspan(0, axes.get_ylim()[1 if panel.pulled_up else 0], **PULLED, linewidth=0)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    for i, (curve, colour) in enumerate(zip(panel.curves, _colours(panel), strict=True)):
        # Curves that coincide stay visible, as bands around the last one.
        width = 1.2 + 0.5 * (len(panel.curves) - 1 - i)
        axes.plot(curve.pi_T, curve.value_T, color=colour, linewidth=width, solid_capstyle="butt")
        at_mu = curve.value_T[curve.pi_T.searchsorted(curve.mu)]
        axes.plot(curve.mu, at_mu, "o", color=colour, markersize=5, markeredgecolor=PAPER, zorder=4)
        edges = panel.edges(curve)
        axes.plot(edges, [0] * len(edges), "|", color=colour, markersize=9, markeredgewidth=1.8)
    _note_overflow(axes, panel, within)


def _note_overflow(axes: Axes, panel: Panel, within: tuple[float, float]) -> None:
    """Notes how far the curves go that leave the panel."""
    deepest = min(panel.curves, key=lambda curve: curve.value_T.min())
    tallest = max(panel.curves, key=lambda curve: curve.value_T.max())
    for sign, curve, value, y in (
        ("↓", deepest, deepest.value_T.min(), 0.03),
        ("↑", tallest, tallest.value_T.max(), 0.92),
    ):
        if not within[0] <= value <= within[1]:
            text = f"{sign} to {value:.3g} at μ = {curve.mu:g}".replace("-", "−")
            box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 1}
            at = axes.transAxes
            axes.text(0.98, y, text, transform=at, ha="right", fontsize=7.5, bbox=box, zorder=5)


def _title(axes: Axes, panel: Panel) -> None:
    options = textwrap.fill(panel.variant.options, 34)
    title = printable(f"{panel.variant.name}\n{options}".strip())
    axes.set_title(title, fontsize=8.5, loc="left")


def _legend(figure: Figure, panel: Panel) -> None:
    handles: list[Artist] = [
        Line2D([], [], color=colour, marker="o", markeredgecolor=PAPER, label=f"μ = {curve.mu:g}")
        for curve, colour in zip(panel.curves, _colours(panel), strict=True)
    ]
    handles += [
        Line2D([], [], color=INK, marker="o", linestyle="", label="π = μ"),
        Line2D([], [], color=INK, marker="|", linestyle="", markersize=9, label="edge: w = 0"),
        Patch(**PULLED, label="pulled back"),
    ]
    columns = min(len(handles), int(figure.get_figwidth() / LEGEND_INCHES))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _colours(panel: Panel) -> list[str]:
    places = linspace(0, LIGHTEST, len(panel.curves))
    return [to_hex(matplotlib.colormaps[COLOURS](place)) for place in places]
