"""The page's part on samples: a table to search, sort and filter, and short ones of a few."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from drpo_cli.report.elements import escaped, number, paragraph, shortened, table
from drpo_cli.report.sample_views import SHOWN, TITLES, Views, views
from drpo_cli.runs.samples import SampleColumns, standardize
from drpo_cli.runs.saved import SavedRun
from drpo_cli.runs.suspicion import Pair

MOST_BYTES = 800_000
"""Of the table, over all runs, so that the page stays one to mail."""
SHOWN_OF_A_SUSPICION = 4
KINDS = {"rewards": "t", "from": "k", "prompt": "t", "completion": "t"}
METHOD = (
    f"Each view has its first {SHOWN}; in all but the changed prompts, equal completions are shown "
    "once, the newest of those that rank alike. Change: mean total of the prompt on the last step "
    "that sampled it less that on the first; shown are a sample of both. Disagreement: each reward "
    "is standardized over all samples of the run (less its mean, divided by its standard "
    "deviation, with its sign turned where its weight is negative); it is the largest of these "
    "values less the smallest."
)


def samples_section(runs: Sequence[SavedRun]) -> str:
    """The table with its controls, over all runs; without scripts, all of its rows."""
    heading = "<h2 id=samples>Samples</h2>"
    if not any(len(run.sample_columns) for run in runs):
        return heading + paragraph("No sample was recorded.")
    found = {
        run.name: views(run.sample_columns, run.roles) for run in runs if len(run.sample_columns)
    }
    shown = [run for run in runs if len(run.sample_columns)]
    rewards = list(dict.fromkeys(name for run in shown for name in run.sample_columns.by_reward))
    rows, left_out = _rows(shown, found, rewards, several=len(runs) > 1)
    where = [
        f"From the {len(run.sample_columns):,} samples of {run.sample_columns.path}; line N is "
        f"`sed -n Np {run.sample_columns.path.name}`."
        for run in shown
    ]
    if left_out:
        where.append(f"{left_out:,} more samples of the views are left out for the page's size.")
    return "\n".join(
        [
            heading,
            *(paragraph(text, "note") for text in where),
            _controls(list(dict.fromkeys(chain(*(v.orders for v in found.values())))), runs),
            f'<div class="wide" tabindex=0 role="region" aria-label="Samples"><table id=table>'
            f"<thead><tr>{_head(rewards, several=len(runs) > 1)}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table></div>",
            '<p class="live"><button type=button id=more hidden>Show more</button></p>',
            paragraph(METHOD, "note"),
        ]
    )


def samples_table(archive: SampleColumns, which: Iterable[int]) -> str:
    """A plain table of these samples with their texts shortened."""
    which = list(which)
    if not which:
        return paragraph("None.")
    rows = [
        [_total(r), _scores(r), *_texts(r), "\n".join(_origin(r))] for r in archive.records(which)
    ]
    columns = ("total", "rewards", "prompt", "completion", "from")
    return table(columns, rows, {"total": "n"} | KINDS)


def suspicious_samples(archive: SampleColumns, pair: Pair) -> str:
    """Samples of the last tenth of steps that are far out in both: a high total, a bad reward."""
    values_N = archive.by_reward.get(pair.name)
    if values_N is None:
        return ""
    steps = np.unique(archive.steps_N)
    recent_N = archive.steps_N >= steps[-max(1, len(steps) // 10)]
    bad_N = -pair.role.sign * standardize(values_N)
    contrast_N = np.minimum(standardize(archive.totals_N), bad_N)
    which = archive.top(
        np.where(recent_N, contrast_N, np.nan), SHOWN_OF_A_SUSPICION, archive.texts_N
    )
    return samples_table(archive, which)


def _controls(names: Sequence[str], runs: Sequence[SavedRun]) -> str:
    options = "".join(f'<option value="{name}">{TITLES[name]}</option>' for name in names)
    parts = [
        "<label>Search <input type=search id=search autocomplete=off></label>",
        f'<label>Show <select id=view><option value="">all of them</option>{options}</select>'
        "</label>",
    ]
    if len(runs) > 1:
        named = "".join(f"<option>{escaped(run.name)}</option>" for run in runs)
        parts.append(
            f'<label>Run <select id=run><option value="">all</option>{named}</select></label>'
        )
    return f'<div class="controls live">{"".join(parts)}<output id=count></output></div>'


def _head(rewards: Sequence[str], several: bool) -> str:
    def numbers(*names: str) -> str:
        return "".join(
            f"<th scope=col class=n aria-sort=none><button type=button class=sort>"
            f"{escaped(name)}</button></th>"
            for name in names
        )

    run = "<th scope=col>run</th>" if several else ""
    texts = "<th scope=col class=t>prompt</th><th scope=col class=t>completion</th>"
    return (
        run + numbers("step", "total", *rewards) + texts
        + numbers("change", "disagreement", "tokens") + "<th scope=col class=k>from</th>"
    )  # fmt: skip


def _rows(
    runs: Sequence[SavedRun], found: Mapping[str, Views], rewards: Sequence[str], several: bool
) -> tuple[list[str], int]:
    """Rows of all views until they are too many, the first of each view first; how many are not."""
    rows: list[str] = []
    size = left_out = 0
    queues = [_ranked(run.sample_columns, found[run.name]) for run in runs]
    for place, run in (
        (place, run)
        for turn in zip_longest(*queues)
        for place, run in zip(turn, runs, strict=True)
        if place is not None
    ):
        if size > MOST_BYTES:
            left_out += 1
            continue
        i, ranks = place
        row = _row(run, found[run.name], i, ranks, rewards, several)
        size += len(row)
        rows.append(row)
    return rows, left_out


def _ranked(archive: SampleColumns, found: Views) -> list[tuple[int, dict[str, int]]]:
    """Samples of all views in turn, each with its place in those that have it."""
    ranks: dict[int, dict[str, int]] = {}
    for turn in zip_longest(*found.orders.values()):
        ranks |= {int(i): {} for i in turn if i is not None and int(i) not in ranks}
    for name, order in found.orders.items():
        for rank, i in enumerate(order):
            ranks[int(i)].setdefault(name, rank)
    return list(ranks.items())


def _row(
    run: SavedRun,
    found: Views,
    i: int,
    ranks: Mapping[str, int],
    rewards: Sequence[str],
    several: bool,
) -> str:
    (record,) = run.sample_columns.records([i])
    values = record.get("rewards") or {}
    scores = [values.get(name) for name in rewards]
    further = [_known(found.change_N[i]), _known(found.disagreement_N[i]), record.get("tokens")]
    total = f'<td class=n data-value="{_data(record.get("reward"))}">{escaped(_total(record))}</td>'
    texts = "".join(f"<td class=t>{escaped(text)}</td>" for text in _texts(record))
    return (
        "<tr" + "".join(f' data-{name}="{rank}"' for name, rank in ranks.items()) + ">"
        + (f"<td>{escaped(run.name)}</td>" if several else "")
        + _number_cell(record["step"]) + total + "".join(map(_number_cell, scores))
        + texts + "".join(map(_number_cell, further))
        + f"<td class=k>{escaped(chr(10).join(_origin(record)[1:]))}</td></tr>\n"
    )  # fmt: skip


def _number_cell(value: float | None) -> str:
    return f'<td class=n data-value="{_data(value)}">{number(value)}</td>'


def _data(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _total(record: Mapping[str, Any]) -> str:
    total = record.get("reward")
    return "skipped" if total is None else number(total)


def _scores(record: Mapping[str, Any]) -> str:
    rewards = record.get("rewards") or {}
    return "\n".join(f"{number(value)} {name}" for name, value in rewards.items())


def _texts(record: Mapping[str, Any]) -> tuple[str, str]:
    answer = record.get("answer")
    prompt = shortened(str(record["prompt"]))
    asked = prompt if answer is None else f"{prompt}\n\nanswer: {shortened(str(answer))}"
    cut = "\n[truncated]" if record.get("truncated") else ""
    return asked, shortened(str(record["completion"])) + cut


def _origin(record: Mapping[str, Any]) -> list[str]:
    parts = (f"step {record['step']}", str(record.get("prompt_id", "")), f"line {record['line']}")
    return [part for part in parts if part]
