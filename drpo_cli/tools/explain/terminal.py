"""The drawing as text: 80 columns, without colour, also for a pipe."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from drpo_cli.tools.explain.curves import Curve, Panel, limits, values

WIDTH = 33
"""Columns of a panel; each is an interval of π."""
MARGIN = 6
ROWS = 14
STEPS = (0.1, 0.25, 0.5, 1.0)  # between rows; each step gives a row at 0 and a row at 1
SHIFTS = (-0.3, -0.1, 0.1, 0.3)
"""π − μ of the table's columns."""


def render(rows: Sequence[Sequence[Panel]]) -> str:
    """The objectives one below the other: a panel and a short table per advantage."""
    low, high = limits(panel for row in rows for panel in row)
    step = next((s for s in STEPS if _level(high, s) - _level(low, s) < ROWS), STEPS[-1])
    levels = [i * step for i in range(_level(high, step), _level(low, step) - 1, -1)]
    mu = [f"{i} μ = {curve.mu:g}" for i, curve in enumerate(rows[0][0].curves, 1)]
    parts = ["On the axis of π, each digit marks π = μ:", "   ".join(mu), ""]
    for panels in zip(*rows, strict=True):
        variant = panels[0].variant
        blocks = [_panel(p, levels) + _table(p) for p in panels]
        parts.append(f"{variant.name}  {variant.options}".rstrip())
        parts += ["  ".join(lines).rstrip() for lines in zip(*blocks, strict=True)]
        parts.append("")
    return "\n".join(parts)


def _level(value: float, step: float) -> int:
    """The step at or beyond the value, away from 0; rounding errors do not count."""
    return int(math.copysign(math.ceil(abs(value) / step - 1e-9), value))


def _panel(panel: Panel, levels: Sequence[float]) -> list[str]:
    lines = [f"{'':{MARGIN}}{panel.title:<{WIDTH}}"]
    named = {levels[0], 0.0, 1.0, levels[-1]}
    for level, cells in zip(levels, _plane(panel.curves, levels), strict=True):
        number = f"{level:g}" if level in named else ""
        lines.append(f"{number:>{MARGIN - 1}}{'┤' if number else '│'}{''.join(cells)}")
    axis = ["─"] * WIDTH
    for digit, curve in enumerate(panel.curves, 1):
        axis[min(int(curve.mu * WIDTH), WIDTH - 1)] = str(digit)
    return [*lines, f"{'└':>{MARGIN}}{''.join(axis)}", f"{'':{MARGIN}}0{'π':^{WIDTH - 2}}1"]


def _plane(curves: Sequence[Curve], levels: Sequence[float]) -> list[list[str]]:
    """The cells of a panel, by row: digits of the curves, and arrows where a curve leaves."""
    drawn: dict[tuple[int, int], list[str]] = {}
    left: dict[tuple[int, int], str] = {}
    last = len(levels) - 1
    for digit, curve in enumerate(curves, 1):
        before = None
        for column, row in enumerate(_rows(curve, levels)):
            inside = 0 <= row <= last
            start = row if before is None else before
            between = range(min(start, row) + 1, max(start, row))
            for covered in {row, *between} & set(range(len(levels))):
                drawn.setdefault((covered, column), []).append(str(digit))
            if not inside and (before is None or 0 <= before <= last):
                left[(0, column) if row < 0 else (last, column)] = "↑" if row < 0 else "↓"
            before = row
    plane = [["·" if level == 0 else " "] * WIDTH for level in levels]
    for (row, column), digits in drawn.items():
        plane[row][column] = digits[column % len(digits)]  # curves that coincide take turns
    for (row, column), arrow in left.items():
        plane[row][column] = arrow
    return plane


def _rows(curve: Curve, levels: Sequence[float]) -> list[int]:
    """The row of the curve in each column; −1 above the panel, len(levels) below it."""
    centres = (np.arange(WIDTH) + 0.5) / WIDTH
    value_T = np.interp(centres, curve.pi_T, curve.value_T)
    row_T = np.rint((levels[0] - value_T) / (levels[0] - levels[1]))
    return [int(row) for row in row_T.clip(-1, len(levels))]


def _table(panel: Panel) -> list[str]:
    """The values at some differences π − μ, one line per μ."""
    rows = {"π − μ": [f"{shift:+g}" for shift in SHIFTS]}
    for curve in panel.curves:
        rows[f"μ={curve.mu:g}"] = [_value(panel, curve.mu, shift) for shift in SHIFTS]
    last = WIDTH // len(SHIFTS)
    first = MARGIN + WIDTH - last * (len(SHIFTS) - 1)
    return [
        f"{name}{cells[0]:>{first - len(name)}}" + "".join(f"{cell:>{last}}" for cell in cells[1:])
        for name, cells in rows.items()
    ]


def _value(panel: Panel, mu: float, shift: float) -> str:
    pi_T = np.array([round(mu + shift, 12)])
    if not 0 < pi_T[0] <= 1:
        return "–"
    (value,) = values(panel.variant, pi_T, mu, panel.advantage, panel.gradient)
    return f"{round(float(value), 6) + 0.0:.3g}".replace("e+0", "e")
