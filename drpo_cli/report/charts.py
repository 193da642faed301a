"""Charts of a page: what frames and describes each plot. BokehJS fills the plots in."""

from __future__ import annotations

from collections.abc import Sequence

from drpo_cli.report.curves import Band, Line, Panel, known
from drpo_cli.report.elements import escaped, number, table

COLUMNS = ("series", "first", "lowest", "highest", "last")


def figures(panels: Sequence[Panel]) -> str:
    """The panels, each with its legend, its place for the plot, and its values in words."""
    return '<div class="charts">' + "\n".join(_figure(panel) for panel in panels) + "</div>"


def _figure(panel: Panel) -> str:
    title = escaped(panel.title)
    lines = [_entry(f"{panel.key}.l{i}", line) for i, line in enumerate(panel.lines)]
    bands = [_entry(f"{panel.key}.b{i}", band) for i, band in enumerate(panel.bands)]
    named = [*lines, *bands] if len(panel.lines) + len(panel.bands) > 1 else []
    legend = f'<div class="legend" role="group" aria-label="Series">{"".join(named)}</div>'
    return (
        f"<figure><figcaption>{title}</figcaption>{legend if named else ''}"
        f'<div class="chart" id="chart-{panel.key}" role="img" '
        f'aria-label="Chart over steps: {title}. Its values are in the table that follows."></div>'
        f"<details><summary>Values</summary>{_values(panel)}</details></figure>"
    )


def _entry(name: str, drawn: Line | Band) -> str:
    """A button that shows and hides one series of the plot."""
    look = f"background:{drawn.colour}"
    if isinstance(drawn, Band):
        look += f";opacity:{2 * drawn.alpha};height:.8em"
    elif drawn.dash != "solid":
        look = f"border-top:3px {'dotted' if drawn.dash == 'dotted' else 'dashed'} {drawn.colour}"
    return (
        f'<button type="button" aria-pressed="true" data-series="{name}">'
        f'<i class="swatch" style="{look}"></i>{escaped(drawn.label)}</button>'
    )


def _values(panel: Panel) -> str:
    rows = []
    for line in panel.lines:
        if points := known(line.points):
            ranked = sorted(points, key=lambda point: point[1])
            ends = (points[0], ranked[0], ranked[-1], points[-1])
            rows.append([line.label or panel.title, *(_at(panel, *point) for point in ends)])
    return table(COLUMNS, rows, dict.fromkeys(COLUMNS[1:], "n"))


def _at(panel: Panel, step: float, value: float) -> str:
    shown = f"{value:.1%}" if panel.share else number(value)
    return f"{shown} (step {step:,.0f})"
