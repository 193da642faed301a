"""The tables of a grid as text: overviews, cells, differences, spread, failed runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from drpo_cli.evaluate.metrics import Estimate
from drpo_cli.tools.compare.grid import short_keys
from drpo_cli.tools.compare.report import Report
from drpo_cli.tools.compare.results import Result, Tokens
from drpo_cli.tools.compare.statistics import Share, Spread
from drpo_cli.tools.compare.summaries import CellDifference, Summary

NONE = "–"
ARROWS = ("", " ↑", " ↓")  # by sign


@dataclass(frozen=True)
class Table:
    """A table of text.

    name   what a page names it by
    named  how many of the first columns are not numbers
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    named: int


def make_tables(report: Report) -> list[Table]:
    """The tables of cells, chosen candidates, differences, spread, tokens and failed runs."""
    found = [_make_cell_table(report)]
    if report.trials:
        found.append(_make_chosen_table(report))
    if report.differences:
        found.append(_make_difference_table(report))
    if report.clustered:
        found.append(_make_spread_table(report))
    if any(result.by_mu for result in report.results):
        found.append(_make_token_table(report))
    if report.failed:
        rows = tuple((r.label, str(r.seed), r.reason) for r in report.failed)
        found.append(Table("failed", "Failed runs", ("cell", "seed", "reason"), rows, 3))
    return found


def make_overviews(report: Report) -> list[Table]:
    """A row per value of the first key, a column per combination of the others; none for one key.

    Final scores, runs that collapsed, and the time to the target.
    """
    if len(report.axes) == 1:
        return []
    legend = f"↑ ↓ differs from {report.baseline.value} (corrected p < 0.05)"
    found = [
        _make_overview(
            report,
            "overview",
            f"Final held-out avg@k, %; {legend}",
            lambda row: NONE if row.final is None else to_percent(row.final),
            lambda difference: difference.sign,
        ),
        _make_overview(
            report,
            "collapsed",
            f"Runs that collapsed; {legend}",
            lambda row: NONE if row.collapsed is None else _count_of(row.collapsed),
            lambda difference: difference.collapsed_sign,
        ),
    ]
    if report.target is not None:
        reached = _make_overview(
            report,
            "reached",
            f"{_name_time(report).capitalize()}: median, and runs that reached it; {legend}",
            _show_reached,
            lambda difference: difference.time_sign,
        )
        found.append(reached)
    return found


def make_base_table(report: Report) -> list[Table]:
    """A row per cell and base model, with its runs' final scores; none for one base model."""
    if not report.clustered:
        return []
    keys = short_keys([axis.key for axis in report.axes])
    rows = tuple(
        (*(value for _, value in row.point), *cells)
        for row in report.summaries
        for cells in _base_rows(report, report.at(row.point))
    )
    header = (*keys.values(), "base model", "before", *(f"seed {seed}" for seed in report.seeds))
    title = "Held-out avg@k, %: of each base model before training, and after it"
    return [Table("bases", title, header, rows, len(keys) + 1)]


def _base_rows(report: Report, results: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    for base in report.bases:
        found = {result.seed: result for result in results if result.base == base}
        before = next((result.curve[0][1] for result in found.values()), None)
        after = (found[seed].final if seed in found else None for seed in report.seeds)
        scores = (before, *after)
        yield (
            PurePosixPath(base).name,
            *(NONE if score is None else f"{100 * score:.1f}" for score in scores),
        )


def to_percent(found: Estimate, sign: str = "") -> str:
    """A share in percent, with its interval if it has one."""
    low, high = (None if end is None else 100 * end for end in (found.low, found.high))
    return _to_text(Estimate(100 * found.value, low, high), sign)


def _make_cell_table(report: Report) -> Table:
    titles = short_keys([axis.key for axis in report.axes]).values()
    header = [*titles, "runs", "final", "best", "area"]
    if report.target is not None:
        header.append(_name_time(report))
    header.append("collapsed")
    rows = tuple(tuple(_cell_row(row, report.target is not None)) for row in report.summaries)
    over = "base models" if report.clustered else "seeds"
    interval = "" if report.sample_size == 1 else f", with 95 % intervals over {over}"
    return Table("cells", f"Held-out avg@k, %{interval}", tuple(header), rows, len(report.axes))


def _cell_row(row: Summary, with_target: bool) -> Iterator[str]:
    yield from (value for _, value in row.point)
    failed = f", {row.failed} failed" if row.failed else ""
    yield f"{row.finished} of {row.runs}{failed}"
    for found in (row.final, row.best, row.area):
        yield NONE if found is None else to_percent(found)
    if with_target:
        yield _show_reached(row)
    yield _show_share(row)


def _make_overview(
    report: Report,
    name: str,
    title: str,
    show: Callable[[Summary], str],
    sign: Callable[[CellDifference], int],
) -> Table:
    first, *others = report.axes
    short = short_keys([axis.key for axis in report.axes])
    signs = {row.point: sign(row) for row in report.differences}
    rows: dict[str, list[str]] = {}
    columns: dict[str, None] = {}
    for row in report.summaries:
        point = dict(row.point)
        columns[", ".join(f"{short[axis.key]} {point[axis.key]}" for axis in others)] = None
        text = show(row) + ARROWS[signs.get(row.point, 0)]
        rows.setdefault(point[first.key], []).append(text)
    body = tuple((name, *values) for name, values in rows.items())
    return Table(name, title, (short[first.key], *columns), body, 1)


def _make_difference_table(report: Report) -> Table:
    base, keys = report.baseline, short_keys([axis.key for axis in report.axes])
    timed = [] if report.target is None else [_name_time(report), "p"]
    numbers = ("pairs", "final", "p", "detectable", "area", *timed, "collapsed", "p")
    rows = tuple(tuple(_difference_row(row)) for row in report.differences)
    pairing = "base model and seed" if report.bases else "seed"
    title = f"Difference from {base.key}={base.value}, percentage points, paired by {pairing}"
    return Table("differences", title, (*keys.values(), *numbers), rows, len(keys))


def _difference_row(row: CellDifference) -> Iterator[str]:
    yield from (value for _, value in row.point)
    yield str(row.pairs)
    yield NONE if row.final is None else to_percent(row.final, "+")
    yield _show_p(row.p)
    yield NONE if row.detectable is None else f"{100 * row.detectable:.1f}"
    yield NONE if row.area is None else to_percent(row.area, "+")
    if row.time is not None:
        yield _to_text(row.time, "+")
        yield _show_p(row.time_p)
    yield f"+{row.more} −{row.fewer}"
    yield _show_p(row.collapsed_p)


def _make_spread_table(report: Report) -> Table:
    keys = short_keys([axis.key for axis in report.axes])
    parts = ("score: bases", "score: seeds", "difference: bases", "difference: seeds")
    differences = {row.point: row.spread for row in report.differences}
    rows = tuple(
        (
            *(value for _, value in row.point),
            *_show_spread(row.spread),
            *_show_spread(differences.get(row.point)),
        )
        for row in report.summaries
    )
    title = "Spread of the final score, standard deviations in percentage points"
    return Table("spread", title, (*keys.values(), *parts), rows, len(keys))


def _make_chosen_table(report: Report) -> Table:
    keys = short_keys([axis.key for axis in report.axes])
    final = {row.point: row.final for row in report.summaries}
    tried = Counter(trial.point for trial in report.trials)
    rows = tuple(
        (
            *(value for _, value in trial.point),
            trial.candidate or NONE,
            str(tried[trial.point]),
            f"{100 * trial.score:.1f}" if trial.runs else NONE,
            NONE if (found := final.get(trial.point)) is None else to_percent(found),
        )
        for trial in report.trials
        if trial.chosen
    )
    header = (*keys.values(), "chosen", "of", "selection seeds", "reported seeds")
    title = "Chosen by the final held-out avg@k, %, on the selection seeds"
    return Table("chosen", title, header, rows, len(keys) + 1)


def _make_token_table(report: Report) -> Table:
    keys = short_keys([axis.key for axis in report.axes])
    found = [(row.point, _add_tokens(report.at(row.point))) for row in report.summaries]
    ranges = sorted({lowest for _, sums in found for lowest in sums}, key=float, reverse=True)
    rows = tuple(
        (
            *(value for _, value in point),
            *_token_row([sums.get(lowest, Tokens(0, 0, 0)) for lowest in ranges]),
        )
        for point, sums in found
    )
    between = [f"{low} ≤ μ < {high}".removeprefix("0 ≤ ") for high, low in pairwise(ranges)]
    names = [f"μ ≥ {ranges[0]}", *between]
    columns = [text for name in names for text in (name, "masked / pulled back")]
    title = "Tokens by μ, % of all; of these, % that are masked / pulled back"
    return Table("tokens", title, (*keys.values(), *columns), rows, len(keys))


def _add_tokens(results: Sequence[Result]) -> dict[str, Tokens]:
    sums: dict[str, Tokens] = {}
    for result in results:
        for lowest, tokens in result.by_mu:
            before = sums.get(lowest, Tokens(0, 0, 0))
            sums[lowest] = Tokens(*(a + b for a, b in zip(before, tokens, strict=True)))
    return sums


def _token_row(ranges: Sequence[Tokens]) -> Iterator[str]:
    total = sum(tokens.trained for tokens in ranges)
    for trained, masked, corrected in ranges:
        yield f"{100 * trained / total:.1f}" if total else NONE
        yield f"{100 * masked / trained:.1f} / {100 * corrected / trained:.1f}" if trained else NONE


def _show_spread(found: Spread | None) -> tuple[str, str]:
    if found is None:
        return NONE, NONE
    return f"{100 * found.bases:.1f}", NONE if found.seeds is None else f"{100 * found.seeds:.1f}"


def _name_time(report: Report) -> str:
    assert report.target is not None
    return f"{report.unit}s to {100 * report.target:g} %"


def _show_reached(row: Summary) -> str:
    if row.reached is None:
        return NONE
    found = row.reached
    median = NONE if found.median is None else f"{found.median:g}"
    return f"{median} ({found.count} of {found.runs})"


def _show_share(row: Summary) -> str:
    if row.collapsed is None:
        return NONE
    found = row.collapsed
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f" [{100 * found.low:.0f}, {100 * found.high:.0f}] %"
    return f"{found.count} of {found.runs}{interval}"


def _count_of(found: Share) -> str:
    return f"{found.count} of {found.runs}"


def _show_p(p: float | None) -> str:
    return NONE if p is None else f"{p:.2g}"


def _to_text(found: Estimate, sign: str = "") -> str:
    text = f"{found.value:{sign}.1f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{found.low:{sign}.1f}, {found.high:{sign}.1f}]"
