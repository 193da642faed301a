"""Panels as Bokeh plots: what BokehJS draws in the page, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drpo_cli.report.curves import Panel, Series

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource, Plot, Range
    from bokeh.models.renderers import GlyphRenderer

HEIGHT = 230  # pixels
INK = "#80808040"  # grid lines, on either theme

Shade = tuple[float, float, str]
"""First and last step of an alert, and a colour."""


@dataclass
class _Sources:
    """Columns of equal steps share a source, so that the page holds those once."""

    columns: dict[tuple[float, ...], dict[str, NDArray[np.float32]]] = field(default_factory=dict)
    sources: dict[tuple[float, ...], ColumnDataSource] = field(default_factory=dict)

    def add(self, points: Series) -> tuple[ColumnDataSource, str]:
        """The source and the name of a new column for these points."""
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
        """Hands the columns over, all at once: a source checks all of them at every change."""
        for steps, source in self.sources.items():
            source.data = dict(self.columns[steps])


def drawn(panels: Sequence[Panel], shades: Sequence[Shade]) -> dict[str, Any]:
    """What `Bokeh.embed.embed_items` takes: the plots, and the elements they go into."""
    from bokeh.document import Document
    from bokeh.models import DataRange1d

    sources, document = _Sources(), Document()
    steps = DataRange1d(range_padding=0.02)
    plots = {panel.key: _plot(panel, steps, sources, shades) for panel in panels}
    sources.fill()
    with document.models.freeze():  # each root would be followed through all others again
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
        y_range=models.DataRange1d(range_padding=0.06, only_visible=True),
        y_scale=models.LogScale() if panel.log else models.LinearScale(),
        background_fill_color=None, border_fill_color=None, outline_line_color=None,
        min_border_right=12, toolbar_location="right",
    )  # fmt: skip
    _axes(plot, panel)
    hovered: dict[ColumnDataSource, list[tuple[GlyphRenderer, str, str]]] = {}
    renderers = _bands(panel, sources)
    for i, line in enumerate(panel.lines):
        source, name = sources.add(_placed(panel, line.points))
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
        low, high = _placed(panel, band.low), _placed(panel, band.high)
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
    if line.marks or len(line.points) == 1:  # a line of one point is not seen
        dots = Scatter(x="step", y=name, size=5, fill_color=line.colour, line_color=None)
        found += [GlyphRenderer(name=key, data_source=source, glyph=dots)]
    return found


def _tools(
    plot: Plot,
    panel: Panel,
    hovered: Mapping[ColumnDataSource, Sequence[tuple[GlyphRenderer, str, str]]],
) -> None:
    from bokeh import models

    form = "{0.00%}" if panel.share else "{%.4g}"
    for rows in hovered.values():
        names = [name for _, _, name in rows]
        plot.add_tools(
            models.HoverTool(
                renderers=[rows[0][0]], mode="vline", line_policy="nearest", visible=False,
                tooltips=[("step", "@step{0,0}"), *((lb, f"@{n}{form}") for _, lb, n in rows)],
                formatters={} if panel.share else {f"@{n}": "printf" for n in names},
            )
        )  # fmt: skip
    zoom = models.BoxZoomTool(dimensions="width")
    plot.add_tools(zoom, models.PanTool(dimensions="width"), models.ResetTool())
    plot.toolbar.active_drag = zoom
    plot.toolbar.logo = None
    plot.toolbar.autohide = True


def _placed(panel: Panel, points: Series) -> Series:
    """Values that a logarithmic axis has a place for; others become the panel's smallest."""
    if not panel.log:
        return points
    curves = [line.points for line in panel.lines]
    least = min((value for curve in curves for _, value in curve if value > 0), default=1.0)
    return [(step, value if value != value else max(value, least)) for step, value in points]
