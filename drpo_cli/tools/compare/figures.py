"""Learning curves and sensitivity of a grid, as SVG that follows the theme and as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drpo_cli.evaluate.metrics import Estimate
from drpo_cli.spec.overrides import parse_value
from drpo_cli.terminal import printable
from drpo_cli.tools.compare.grid import Axis, short_keys
from drpo_cli.tools.compare.report import Report
from drpo_cli.tools.compare.results import Result
from drpo_cli.tools.compare.statistics import average
from drpo_cli.tools.compare.summaries import group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette for all kinds of colour vision, without black and yellow, which are hard
# to see in one of the themes. Further lines repeat the colours with other dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
INK = "#010203"  # replaced by the text colour of the theme
THEME = "<style>svg{color:#222}@media(prefers-color-scheme:dark){svg{color:#ddd}}</style>"
PANEL = (4.2, 3.0)  # inches
COLUMNS = 3
MOST_COLUMNS = 4  # with at most so many values, the last key has a column for each
LEGEND_ROW = 0.25  # inches
LEGEND_COLUMNS = 4
LETTER, HANDLE = 0.075, 0.6  # inches: a letter of a legend label; its line and margins
LOGARITHMIC = 5  # a range of values wider than this factor gets a logarithmic axis
PNG_DPI = 150


def write(report: Report, out: Path) -> list[str]:
    """Writes curves.svg/.png, and sensitivity.svg/.png if the second key is a number.

    Returns the SVG texts.
    """
    import matplotlib

    drawings = []
    for name, draw in (("curves", _draw_curves), ("sensitivity", _draw_sensitivity)):
        style: Any = {
            **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
            **{"axes.edgecolor": INK, "grid.color": INK, "grid.alpha": 0.15, "axes.grid": True},
            **{"axes.spines.top": False, "axes.spines.right": False, "font.size": 9.0},
            **{"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"},
            **{"text.parse_math": False},  # a $ in a value is a $
        }
        with matplotlib.rc_context(style):
            figure = draw(report)
            if figure is not None:
                figure.savefig(out / f"{name}.png", dpi=PNG_DPI, facecolor="white")
                drawings.append(_to_svg(figure))
                (out / f"{name}.svg").write_text(drawings[-1], encoding="utf-8")
    return drawings


def _to_svg(figure: Figure) -> str:
    """Renders a figure without background; its ink takes the colour of the text around it."""
    image = io.StringIO()
    figure.savefig(image, format="svg", transparent=True, metadata={"Date": None})
    text = image.getvalue()
    start = text.index(">", text.index("<svg")) + 1
    inked = text[start:].replace(INK, "currentColor")
    return text[text.index("<svg") : start] + THEME + inked


def _draw_curves(report: Report) -> Figure:
    first, *others = report.axes
    figure, panels = _make_panels(others, first.values)
    for values, axes in panels.items():
        axes.set(xlabel=report.unit, ylabel="held-out avg@k, %")
        axes.label_outer()
        for index, value in enumerate(first.values):
            _draw_curve(axes, _runs_at(report, (value, *values)), _line_style(index))
    _add_legend(figure, first.values)
    return figure


def _draw_curve(axes: Axes, runs: Sequence[Result], style: dict[str, Any]) -> None:
    curves = group(runs, lambda run: dict(run.curve))
    steps = sorted(set.intersection(*(set(dict(run.curve)) for run in runs))) if runs else []
    found = [average([[curve[step] for curve in base] for base in curves]) for step in steps]
    axes.plot(steps, [100 * e.value for e in found], linewidth=1.6, **style)
    if len(runs) > 1:
        low, high = zip(*(_interval(e) for e in found), strict=True)
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _draw_sensitivity(report: Report) -> Figure | None:
    if len(report.axes) < 2:
        return None
    first, second, *others = report.axes
    numbers = [parse_value(value) for value in second.values]
    if len(numbers) < 2 or not all(type(x) in (int, float) for x in numbers):
        return None
    figure, panels = _make_panels(others, first.values)
    for values, axes in panels.items():
        axes.set(xlabel=printable(second.key), ylabel="final held-out avg@k, %")
        axes.label_outer()
        if min(numbers) > 0 and max(numbers) > LOGARITHMIC * min(numbers):
            axes.set_xscale("log")
        axes.set_xticks(numbers, second.values, rotation=30 if len(numbers) > 4 else 0)
        axes.minorticks_off()
        for index, value in enumerate(first.values):
            points = {
                x: group(_runs_at(report, (value, text, *values)), lambda run: run.final)
                for x, text in zip(numbers, second.values, strict=True)
            }
            _draw_points(axes, points, _line_style(index))
    _add_legend(figure, first.values)
    return figure


def _draw_points(axes: Axes, points: dict[float, list[list[float]]], style: dict[str, Any]) -> None:
    found = {x: average(finals) for x, finals in sorted(points.items()) if finals}
    heights = [100 * e.value for e in found.values()]
    ends = [_interval(e) for e in found.values()]
    below = [h - low for h, (low, _) in zip(heights, ends, strict=True)]
    above = [high - h for h, (_, high) in zip(heights, ends, strict=True)]
    axes.errorbar(list(found), heights, yerr=[below, above], capsize=3, **style)


def _make_panels(
    varied: Sequence[Axis], labels: Sequence[str]
) -> tuple[Figure, dict[tuple[str, ...], Axes]]:
    """Makes a figure with a panel per combination of values, and room for the legend."""
    from matplotlib.figure import Figure

    keys = list(product(*(axis.values for axis in varied)))
    in_rows = len(varied) > 1 and len(varied[-1].values) <= MOST_COLUMNS
    columns = len(varied[-1].values) if in_rows else min(COLUMNS, len(keys))
    rows = -(-len(keys) // columns)
    width, height = max(columns, 1.5) * PANEL[0], rows * PANEL[1]
    legend = LEGEND_ROW * (1 + -(-len(labels) // _count_legend_columns(labels, width)))
    figure = Figure(figsize=(width, height + legend), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for unused in grid[len(keys) :]:
        unused.set_visible(False)
    names = short_keys([axis.key for axis in varied]).values()
    for values, axes in zip(keys, grid, strict=False):
        title = ", ".join(f"{n} = {v}" for n, v in zip(names, values, strict=True))
        axes.set_title(printable(title), fontsize="medium")
    return figure, dict(zip(keys, grid, strict=False))


def _add_legend(figure: Figure, labels: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    # From the labels: of an axis's own, matplotlib leaves out those that begin with _
    handles = [Line2D([], [], **_line_style(index)) for index in range(len(labels))]
    columns = _count_legend_columns(labels, figure.get_figwidth())
    shown = [printable(label) for label in labels]
    figure.legend(handles, shown, loc="outside lower center", ncols=columns, frameon=False)


def _count_legend_columns(labels: Sequence[str], width: float) -> int:
    """Counts the columns that fit a width in inches; matplotlib would cut off the others."""
    fit = int(width / (HANDLE + LETTER * max(map(len, labels))))
    return max(1, min(fit, LEGEND_COLUMNS, len(labels)))


def _line_style(index: int) -> dict[str, Any]:
    turn = index // len(COLOURS)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[turn % len(DASHES)],
        "marker": MARKERS[turn % len(MARKERS)],
        "markersize": 3.5,
    }


def _runs_at(report: Report, values: tuple[str, ...]) -> list[Result]:
    return report.at(tuple(zip((axis.key for axis in report.axes), values, strict=True)))


def _interval(found: Estimate) -> tuple[float, float]:
    low = found.value if found.low is None else found.low
    high = found.value if found.high is None else found.high
    return 100 * low, 100 * high
