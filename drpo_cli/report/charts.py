"""Charts over steps: lines and bands, drawn by BokehJS in the page, and described in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drpo_cli.report.html import Table
from drpo_cli.report.plain import format_number
from drpo_cli.runs.metrics import StepMetrics

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource, Plot, Range
    from bokeh.models.renderers import GlyphRenderer

Series = Sequence[tuple[float, float]]
"""Points (step, value), NaN where a step has no value."""

Metrics = Sequence[StepMetrics]
"""Records of steps, in order."""

# Okabe and Ito's palette for all kinds of colour vision, without black and yellow, which are hard
# to see in one of the themes.
COLOURS = ("#2484c6", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a")
DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")
MOST_STEPS = 2000
"""Most steps of a run that are drawn; of a longer run, one step in every two, three, … is."""
VALUES = ("series", "first", "lowest", "highest", "last")
HEIGHT = 230  # pixels
INK = "#80808040"  # grid lines, on either theme

Shade = tuple[float, float, str]
"""First and last step of an alert, and a colour."""


@dataclass(frozen=True)
class Line:
    """One curve; with `marks`, each point has a dot."""

    label: str
    points: Series
    colour: str
    dash: str = "solid"
    width: float = 1.5
    marks: bool = False

    @property
    def look(self) -> str:
        """The style of its mark in the legend."""
        if self.dash == "solid":
            return f"background:{self.colour}"
        return f"border-top:3px {'dotted' if self.dash == 'dotted' else 'dashed'} {self.colour}"


@dataclass(frozen=True)
class Band:
    """The area between two curves of the same steps."""

    label: str
    low: Series
    high: Series
    colour: str
    alpha: float = 0.2

    @property
    def look(self) -> str:
        """The style of its mark in the legend."""
        return f"background:{self.colour};opacity:{2 * self.alpha};height:.8em"


@dataclass(frozen=True)
class Panel:
    """One chart. `key` is its id in the page: letters, digits, `-`.

    over  what its horizontal axis counts; charts over the same zoom together
    """

    key: str
    title: str
    lines: Sequence[Line]
    bands: Sequence[Band] = ()
    log: bool = False
    share: bool = False
    over: str = "step"

    @property
    def has_data(self) -> bool:
        """Whether any line or band has a value."""
        curves = [*(line.points for line in self.lines), *(band.high for band in self.bands)]
        return any(map(drop_gaps, curves))

    @property
    def values(self) -> Table:
        """The ends and the extremes of each line, in words."""
        rows = []
        for line in self.lines:
            if points := drop_gaps(line.points):
                ranked = sorted(points, key=lambda point: point[1])
                ends = (points[0], ranked[0], ranked[-1], points[-1])
                rows.append([line.label or self.title, *(self._at(*point) for point in ends)])
        return Table(VALUES, rows, dict.fromkeys(VALUES[1:], "n"))

    def _at(self, step: float, value: float) -> str:
        shown = f"{value:.1%}" if self.share else format_number(value)
        return f"{shown} ({self.over} {step:,.0f})"


def drop_gaps(points: Series) -> list[tuple[float, float]]:
    """The points that have a value."""
    return [(step, value) for step, value in points if math.isfinite(value)]


def series(metrics: Metrics, *path: str) -> Series:
    """A metric over the steps that have it; `path` is its key and the keys inside it.

    If most records have it, all steps are kept, with NaN where it is missing, so that a skipped
    step shows as a gap.
    """
    points = [(float(r["step"]), _value(r, path)) for r in metrics]
    found = drop_gaps(points)
    return points if 2 * len(found) > len(points) else found


def thin(metrics: Metrics) -> tuple[Metrics, int]:
    """Every n-th record, those with a held-out or suite score, and the last; and n, 1 for all."""
    every = -(-len(metrics) // MOST_STEPS) or 1
    if every == 1:
        return metrics, 1
    last = len(metrics) - 1
    return [
        r
        for i, r in enumerate(metrics)
        if i % every == 0 or i == last or "held_out" in r or "suites" in r
    ], every


def colour(index: int) -> str:
    """The colour of the line or run with this number."""
    return COLOURS[index % len(COLOURS)]


def _value(record: Mapping[str, Any], path: Sequence[str]) -> float:
    found: Any = record
    for part in path:
        found = found.get(part) if isinstance(found, Mapping) else None
    return math.nan if found is None else float(found)


@dataclass
class _Sources:
    """Data sources; columns over the same steps share one, which holds the steps once."""

    columns: dict[tuple[float, ...], dict[str, NDArray[np.float32]]] = field(default_factory=dict)
    sources: dict[tuple[float, ...], ColumnDataSource] = field(default_factory=dict)

    def add(self, points: Series) -> tuple[ColumnDataSource, str]:
        """Adds a column of these points; returns its source and its name."""
        from bokeh.models import ColumnDataSource

        steps = tuple(step for step, _ in points)
        if steps not in self.sources:
            self.sources[steps] = ColumnDataSource()
            self.columns[steps] = {"step": np.array(steps, dtype=np.float32)}
        columns = self.columns[steps]
        name = f"c{len(columns)}"
        columns[name] = np.array([value for _, value in points], dtype=np.float32)
        return self.sources[steps], name

    def fill(self) -> None:
        """Fills all columns at once: a source checks all of its columns at every change."""
        for steps, source in self.sources.items():
            source.data = dict(self.columns[steps])


def draw(panels: Sequence[Panel], shades: Sequence[Shade]) -> dict[str, Any]:
    """Draws the plots, as what `Bokeh.embed.embed_items` takes."""
    from bokeh.document import Document
    from bokeh.models import DataRange1d

    sources, document = _Sources(), Document()
    across = {panel.over: DataRange1d(range_padding=0.02) for panel in panels}
    plots = {
        panel.key: _plot(panel, across[panel.over], sources, shades if panel.over == "step" else ())
        for panel in panels
    }
    sources.fill()
    with document.models.freeze():  # else each new root is traversed with all the others
        for plot in plots.values():
            document.add_root(plot)
    roots = {plot.id: f"chart-{key}" for key, plot in plots.items()}
    item = {"docid": "charts", "roots": roots, "root_ids": list(roots)}
    return {"docs": {"charts": document.to_json(deferred=False)}, "items": [item]}


def _plot(panel: Panel, steps: Range, sources: _Sources, shades: Sequence[Shade]) -> Plot:
    from bokeh import models
    from bokeh.models.annotations import BoxAnnotation

    plot = models.Plot(
        height=HEIGHT, sizing_mode="stretch_width", x_range=steps, title=None,
        y_range=models.DataRange1d(
            range_padding=0.06, only_visible=True,
            default_span=0.02 if panel.share else 2.0,  # of a line that is constant
        ),
        y_scale=models.LogScale() if panel.log else models.LinearScale(),
        background_fill_color=None, border_fill_color=None, outline_line_color=None,
        min_border_right=12, toolbar_location="right",
    )  # fmt: skip
    _axes(plot, panel)
    hovered: dict[ColumnDataSource, list[tuple[GlyphRenderer[Any], str, str]]] = {}
    renderers = _bands(panel, sources)
    for i, line in enumerate(panel.lines):
        source, name = sources.add(_clip_to_axis(panel, line.points))
        own = _line(panel, i, source, name)
        hovered.setdefault(source, []).append((own[0], line.label, name))
        renderers += own
    plot.renderers = renderers
    for left, right, colour in shades:
        plot.add_layout(
            BoxAnnotation(
                left=left, right=right, fill_color=colour, fill_alpha=0.12, line_color=colour,
                line_alpha=0.5, level="underlay",
            )
        )  # fmt: skip
    _tools(plot, panel, hovered)
    return plot


def _axes(plot: Plot, panel: Panel) -> None:
    from bokeh import models

    across: Any = models.LinearAxis()
    across.ticker = models.BasicTicker(desired_num_ticks=6, min_interval=1)
    across.formatter = models.NumeralTickFormatter(format="0,0")
    up: Any = models.LogAxis() if panel.log else models.LinearAxis()
    if not panel.log:
        up.ticker = models.BasicTicker(desired_num_ticks=5)
    if panel.share:
        up.formatter = models.NumeralTickFormatter(format="0.[0]%")
    across.minor_tick_line_color = up.minor_tick_line_color = None
    plot.add_layout(across, "below")
    plot.add_layout(up, "left")
    plot.add_layout(models.Grid(axis=across, dimension=0, grid_line_color=INK), "center")
    plot.add_layout(models.Grid(axis=up, dimension=1, grid_line_color=INK), "center")


def _bands(panel: Panel, sources: _Sources) -> list[Any]:
    from bokeh.models import VArea
    from bokeh.models.renderers import GlyphRenderer

    found = []
    for i, band in enumerate(panel.bands):
        low, high = _clip_to_axis(panel, band.low), _clip_to_axis(panel, band.high)
        source, low_name = sources.add(low)
        _, high_name = sources.add(high)
        area = VArea(
            x="step", y1=low_name, y2=high_name, fill_color=band.colour, fill_alpha=band.alpha
        )
        found.append(GlyphRenderer(name=f"{panel.key}.b{i}", data_source=source, glyph=area))
    return found


def _line(panel: Panel, index: int, source: ColumnDataSource, name: str) -> list[Any]:
    from bokeh.models import Line, Scatter
    from bokeh.models.renderers import GlyphRenderer

    line, key = panel.lines[index], f"{panel.key}.l{index}"
    glyph = Line(
        x="step", y=name, line_color=line.colour, line_dash=line.dash, line_width=line.width
    )
    found: list[Any] = [GlyphRenderer(name=key, data_source=source, glyph=glyph)]
    if line.marks or len(line.points) == 1:  # a line of one point is invisible
        dots = Scatter(x="step", y=name, size=5, fill_color=line.colour, line_color=None)
        found += [GlyphRenderer(name=key, data_source=source, glyph=dots)]
    return found


def _tools(
    plot: Plot,
    panel: Panel,
    hovered: Mapping[ColumnDataSource, Sequence[tuple[GlyphRenderer[Any], str, str]]],
) -> None:
    from bokeh import models

    form = "{0.00%}" if panel.share else "{%.4g}"
    for rows in hovered.values():
        names = [name for _, _, name in rows]
        plot.add_tools(
            models.HoverTool(
                renderers=[rows[0][0]], mode="vline", line_policy="nearest", visible=False,
                tooltips=[(panel.over, "@step{0,0}"), *((lb, f"@{n}{form}") for _, lb, n in rows)],
                formatters={} if panel.share else {f"@{n}": "printf" for n in names},
            )
        )  # fmt: skip
    zoom = models.BoxZoomTool(dimensions="width")
    plot.add_tools(zoom, models.PanTool(dimensions="width"), models.ResetTool())
    plot.toolbar.active_drag = zoom
    plot.toolbar.logo = None
    plot.toolbar.autohide = True


def _clip_to_axis(panel: Panel, points: Series) -> Series:
    """Replaces values that a logarithmic axis cannot show by the panel's smallest."""
    if not panel.log:
        return points
    curves = [line.points for line in panel.lines]
    least = min((value for curve in curves for _, value in curve if value > 0), default=1.0)
    return [(step, value if value != value else max(value, least)) for step, value in points]
