"""Compares evaluations of the same problems: tables for the terminal, a dict for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import Estimate, Evaluation, estimate
from drpo_cli.evaluate.results import Difference, pair_differences, split_by_source

SHOWN_IDS = 3
METRICS = ("avg@", "pass@", "pass^", "maj@")
"""What the table shows, each with k responses; all metrics are in the JSON."""
DETECTABLE = "detectable: a true difference of this size shows in 4 of 5 such evaluations"


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
    """Makes a table of all targets, for two or more one of the paired differences, and remarks."""
    parts: list[Table | Text] = [_target_table(evaluations), *_source_table(evaluations)]
    if len(evaluations) > 1:
        parts += [_difference_table(compare_pairs(evaluations)), Text(DETECTABLE, style="dim")]
    else:
        parts += [Text(_precision(result)) for result in evaluations.values()]
    for name, result in evaluations.items():
        parts += [Text(f"{name}: {text}") for text in remarks(result)]
    return Group(*parts)


def remarks(result: Evaluation) -> list[str]:
    """What to know about a target's scores, one sentence each."""
    found = []
    if result.unscored:
        found.append(f"{result.unscored} responses count as wrong: a reward failed on them")
    if result.truncated:
        found.append(f"{100 * result.truncated:.1f} % of the responses ran out of tokens")
    if result.chosen_of:
        found.append(
            f"chosen as the best of {result.chosen_of} evaluations on these same problems: "
            "optimistic"
        )
    return found


def as_dict(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Plain JSON values: `targets` and `remarks` by name, and `differences`."""
    return {
        "targets": {name: result.as_dict() for name, result in evaluations.items()},
        "differences": [asdict(difference) for difference in compare_pairs(evaluations)],
        "remarks": {name: remarks(result) for name, result in evaluations.items()},
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
    prompts = [problem.prompt_hash for problem in before.problems]
    return pair_differences(first, list(was.values()), second, [now[id] for id in was], prompts)


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
    for metric in METRICS:
        table.add_column(f"{metric}k", justify="right", no_wrap=True)
    for name, result in evaluations.items():
        cells = [_percent(result.summary[f"{m}{result.k}"]) for m in METRICS]
        label = name if len(sizes) == 1 else f"{name} (k = {result.k})"
        table.add_row(Text(label), *cells)
    return table


def _source_table(evaluations: Mapping[str, Evaluation]) -> Iterator[Table]:
    """The score on each source's problems, where they are of several."""
    by_target = {
        name: split_by_source([p.id for p in result.problems], result.problems)
        for name, result in evaluations.items()
    }
    sources = list(dict.fromkeys(source for found in by_target.values() for source in found))
    if len(sources) < 2:
        return
    table = _make_table("avg@k by source, %")
    table.add_column("source", overflow="fold")
    for name in evaluations:
        table.add_column(Text(name), justify="right", overflow="fold")
    for source in sources:
        cells = []
        for name, result in evaluations.items():
            own, rates = by_target[name].get(source, []), result.avg_by_problem()
            prompts = [problem.prompt_hash for problem in own]
            found = estimate([rates[p.id] for p in own], prompts) if own else None
            cells.append(Text("–") if found is None else _percent(found))
        table.add_row(Text(source), *cells)
    yield table


def _difference_table(found: list[Difference]) -> Table:
    table = _make_table("Paired difference in avg@k, percentage points")
    table.add_column("targets", overflow="fold")
    table.add_column("difference", justify="right")
    table.add_column("detectable", justify="right")
    for difference in found:
        pair = f"{difference.second} − {difference.first}"
        least = "" if difference.detectable is None else f"{100 * difference.detectable:.1f}"
        table.add_row(Text(pair), _points(difference.estimate), least)
    return table


def _precision(result: Evaluation) -> str:
    """How precise the score of a single target is."""
    score = result.summary[f"avg@{result.k}"]
    if score.low is None or score.high is None:
        return "One problem shows no spread: there is no interval."
    half = 50 * (score.high - score.low)
    return f"These problems measure avg@k to ± {half:.1f} points (half of its interval)."


def _make_table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )


def _percent(found: Estimate) -> Text:
    # Text, not str: rich would read the interval's brackets as markup.
    if found.low is None or found.high is None:
        return Text(f"{100 * found.value:.1f}")
    # Two lines: four columns of values beside their intervals would leave targets no room.
    return Text(f"{100 * found.value:.1f}\n[{100 * found.low:.1f}, {100 * found.high:.1f}]")


def _points(found: Estimate) -> Text:
    if found.low is None or found.high is None:
        return Text(f"{100 * found.value:+.1f}")
    return Text(f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]")
