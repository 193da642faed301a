"""Compares evaluations of the same problems: tables for the terminal, a dict for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import Estimate, Evaluation
from drpo_cli.evaluate.results import Difference, pair_differences

SHOWN_IDS = 3


def compare_pairs(evaluations: Mapping[str, Evaluation]) -> list[Difference]:
    """One difference for each pair, earlier against later, with a 95 % interval over problems.

    Intervals are not widened for the number of pairs. Raises UserError unless all evaluations have
    the same problems and the same threshold; k may differ.
    """
    return [
        _compare(first, evaluations[first], second, evaluations[second])
        for first, second in combinations(evaluations, 2)
    ]


def render(evaluations: Mapping[str, Evaluation]) -> Group:
    """Makes a table of all targets and, for two or more, a table of the paired differences."""
    tables = [_target_table(evaluations)]
    if len(evaluations) > 1:
        tables.append(_difference_table(compare_pairs(evaluations)))
    return Group(*tables)


def as_dict(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """`{"targets": {name: evaluation}, "differences": […]}` of plain JSON values."""
    return {
        "targets": {name: result.as_dict() for name, result in evaluations.items()},
        "differences": [asdict(difference) for difference in compare_pairs(evaluations)],
    }


def _compare(first: str, before: Evaluation, second: str, after: Evaluation) -> Difference:
    _require_same_problems(first, before, second, after)
    if before.threshold != after.threshold:
        raise UserError(
            f"{first} and {second} cannot be compared: a response is right from a score of "
            f"{before.threshold:g} in the first and from {after.threshold:g} in the second",
            "evaluate both with the same eval.threshold",
        )
    was, now = before.avg_by_problem(), after.avg_by_problem()
    return pair_differences(first, list(was.values()), second, [now[id] for id in was])


def _require_same_problems(first: str, before: Evaluation, second: str, after: Evaluation) -> None:
    was = {p.id: p.prompt_hash for p in before.problems}
    now = {p.id: p.prompt_hash for p in after.problems}
    reasons = (
        (f"only in {first}", was.keys() - now.keys()),
        (f"only in {second}", now.keys() - was.keys()),
        ("with the same id but another text", {i for i in was.keys() & now if was[i] != now[i]}),
    )
    found = [f"{len(ids)} {what} ({_list_some(ids)})" for what, ids in reasons if ids]
    if found:
        raise UserError(
            f"{first} and {second} were not scored on the same problems: {', '.join(found)}",
            "evaluate both with the same --spec",
        )


def _list_some(ids: Iterable[str]) -> str:
    ordered = sorted(ids)
    more = ", …" if len(ordered) > SHOWN_IDS else ""
    return ", ".join(ordered[:SHOWN_IDS]) + more


def _target_table(evaluations: Mapping[str, Evaluation]) -> Table:
    sizes = {result.k for result in evaluations.values()}
    problems = len(next(iter(evaluations.values())).problems)
    each = f"k = {min(sizes)}, " if len(sizes) == 1 else ""
    table = _make_table(f"{problems} held-out problems, {each}%, with 95 % intervals over problems")
    table.add_column("target", overflow="fold")
    for heading in ("avg@k", "pass@k", "maj@k"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in evaluations.items():
        cells = [_percent(result.summary[f"{m}@{result.k}"]) for m in ("avg", "pass", "maj")]
        label = name if len(sizes) == 1 else f"{name} (k = {result.k})"
        table.add_row(Text(label), *cells)
    return table


def _difference_table(found: list[Difference]) -> Table:
    table = _make_table("Paired difference in avg@k, percentage points")
    table.add_column("targets", overflow="fold")
    table.add_column("difference", justify="right")
    for difference in found:
        pair = f"{difference.second} − {difference.first}"
        table.add_row(Text(pair), _points(difference.estimate))
    return table


def _make_table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )


def _percent(found: Estimate) -> Text:
    # Text, not str: rich would read the interval's brackets as markup.
    if found.low is None or found.high is None:
        return Text(f"{100 * found.value:.1f}")
    return Text(f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]")


def _points(found: Estimate) -> Text:
    if found.low is None or found.high is None:
        return Text(f"{100 * found.value:+.1f}")
    return Text(f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]")
