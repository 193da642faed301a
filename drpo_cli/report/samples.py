"""The page's table of samples: which it shows, in which orders, and with which values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
from markupsafe import escape

from drpo_cli.report.conversation import Conversation, as_text, read_conversation
from drpo_cli.report.html import Table
from drpo_cli.report.plain import format_number, join_lines, shorten
from drpo_cli.runs.samples import (
    Floats,
    Integers,
    NumberedSample,
    SampleColumns,
    measure_disagreement,
    standardize,
)
from drpo_cli.runs.saved import SavedRun
from drpo_cli.runs.spec import Roles, role_of
from drpo_cli.runs.suspicion import Pair

SHOWN = 60  # samples of a view
SHOWN_PROMPTS = 25  # prompts of the view of changed ones, two samples each
SHOWN_OF_A_SUSPICION = 4
MOST_BYTES = 800_000
"""Largest size of the table, over all runs, so that the page can be mailed."""
ROW_BYTES = 400  # of a row's markup and numbers
TEXT_BYTES = 50  # of the markup around a text

TITLES = {
    "newest": "newest, one per prompt",
    "best": "highest total",
    "worst": "lowest total",
    "changed": "most changed prompts",
    "counting": "rewards that count disagree most",
    "disagreeing": "rewards disagree most, metrics included",
    "unfinished": "episodes that failed, or that a limit ended",
    "slowest": "slowest answer of an environment",
}
COLUMNS = ("total", "rewards", "prompt", "completion", "from")
FURTHER = ("change", "disagreement", "tokens", "turns", "slowest answer")
KINDS = {"total": "n", "rewards": "t", "from": "k", "prompt": "t", "completion": "t"}


@dataclass(frozen=True)
class Views:
    """Orders of samples by a name of `TITLES`, and two of the values behind them.

    disagreement_N  largest minus smallest standardized reward
    change_N        mean total of the sample's prompt at its last step minus that at its first
    """

    orders: Mapping[str, Integers]
    disagreement_N: Floats
    change_N: Floats


@dataclass(frozen=True)
class Row:
    """A sample of the table; `ranks` are its places in the views that have it.

    The completion of an episode is how it ended, with its conversation folded away.
    """

    run: str
    ranks: Mapping[str, int]
    step: int
    total: float | None
    rewards: Sequence[float | None]
    prompt: str
    completion: str
    conversation: Conversation | None
    further: Sequence[float | None]
    origin: str

    @property
    def size(self) -> int:
        """About the bytes of its HTML."""
        texts = [self.prompt, self.completion]
        texts += self.conversation.texts if self.conversation else []
        return ROW_BYTES + sum(TEXT_BYTES + len(escape(text)) for text in texts)


@dataclass(frozen=True)
class SamplesPart:
    """The table of samples: titles by view, names of the rewards and of further numbers, rows."""

    notes: Sequence[str]
    views: Mapping[str, str]
    rewards: Sequence[str]
    further: Sequence[str]
    rows: Sequence[Row]
    shown = SHOWN


def describe_samples(runs: Sequence[SavedRun]) -> SamplesPart | None:
    """The rows of all views of all runs, as many as the page has room for; None without samples."""
    shown = [run for run in runs if len(run.sample_columns)]
    if not shown:
        return None
    found = [rank_views(run.sample_columns, run.roles) for run in shown]
    rewards = list(dict.fromkeys(name for run in shown for name in run.sample_columns.by_reward))
    notes = [
        f"From the {len(run.sample_columns):,} samples of {run.folder.samples}; line N is "
        f"`sed -n Np {run.folder.samples.name}`."
        for run in shown
    ]
    rows: list[Row] = []
    size = left_out = 0
    for place, sample, ranks in _take_turns([_rank(views) for views in found]):
        if size > MOST_BYTES:
            left_out += 1
            continue
        run, views = shown[place], found[place]
        for record in run.sample_columns.records([sample]):
            rows.append(_row(run, views, record, sample, ranks, rewards))
            size += rows[-1].size
    if left_out:
        notes.append(f"{left_out:,} more samples of the views are left out for the page's size.")
    return SamplesPart(
        notes=notes,
        views={name: TITLES[name] for name in chain(*(views.orders for views in found))},
        rewards=rewards,
        further=FURTHER if any(row.conversation for row in rows) else FURTHER[:3],
        rows=rows,
    )


def suspicious_samples(samples: SampleColumns, pair: Pair) -> Table:
    """Samples of the last tenth of steps that are extreme in both: a high total, a bad reward."""
    values_N = samples.by_reward.get(pair.name)
    if values_N is None:
        return Table(COLUMNS, [], KINDS)
    steps = np.unique(samples.steps_N)
    recent_N = samples.steps_N >= steps[-max(1, len(steps) // 10)]
    bad_N = -pair.role.sign * standardize(values_N)
    contrast_N = np.minimum(standardize(samples.totals_N), bad_N)
    which = samples.top(
        np.where(recent_N, contrast_N, np.nan), SHOWN_OF_A_SUSPICION, samples.texts_N
    )
    rows = [
        [r.get("reward"), _format_rewards(r), *_texts(r), _origin(r, with_step=True)]
        for r in samples.records(which)
    ]
    return Table(COLUMNS, rows, KINDS)


def rank_views(samples: SampleColumns, roles: Roles) -> Views:
    """Every view that has a sample; in each but `changed`, equal completions are shown once."""
    once_N, totals_N = samples.texts_N, samples.totals_N
    first_N, change_N = _measure_change(samples)
    columns = {
        name: role_of(roles, name).sign * standardize(values_N)
        for name, values_N in samples.by_reward.items()
    }
    counting = [name for name in columns if role_of(roles, name).counts]
    orders = {
        "newest": samples.top(samples.steps_N, SHOWN, samples.prompts_N),
        "best": samples.top(totals_N, SHOWN, once_N),
        "worst": samples.top(-totals_N, SHOWN, once_N),
        "changed": _find_changed(samples, first_N, change_N),
        "unfinished": samples.top(
            np.where(samples.trouble_N > 0, samples.trouble_N, np.nan), SHOWN, once_N
        ),
        "slowest": samples.top(samples.slowest_N, SHOWN, once_N),
    }
    spread_N = np.full(len(samples), np.nan)
    if len(columns) > 1:
        spread_N = measure_disagreement(columns.values())
        if len(counting) > 1:
            counted_N = measure_disagreement([columns[name] for name in counting])
            orders["counting"] = samples.top(counted_N, SHOWN, once_N)
        if len(columns) > max(1, len(counting)):
            orders["disagreeing"] = samples.top(spread_N, SHOWN, once_N)
    return Views({name: found for name, found in orders.items() if len(found)}, spread_N, change_N)


def _measure_change(samples: SampleColumns) -> tuple[Floats, Floats]:
    """The first step of each sample's prompt; and how its mean total changed until its last, [N].

    NaN for a prompt that was sampled on one step only, or has no total on one of the two.
    """
    _, prompt_N = np.unique(samples.prompts_N, return_inverse=True)
    count = int(prompt_N.max()) + 1 if len(prompt_N) else 0
    first_M, last_M = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(first_M, prompt_N, samples.steps_N)
    np.maximum.at(last_M, prompt_N, samples.steps_N)
    means = []
    for step_M in (first_M, last_M):
        there_N = (samples.steps_N == step_M[prompt_N]) & np.isfinite(samples.totals_N)
        sums_M = np.bincount(prompt_N[there_N], samples.totals_N[there_N], minlength=count)
        with np.errstate(invalid="ignore"):
            means.append(sums_M / np.bincount(prompt_N[there_N], minlength=count))
    change_M = np.where(last_M > first_M, means[1] - means[0], np.nan)
    return first_M[prompt_N], change_M[prompt_N]


def _find_changed(samples: SampleColumns, first_N: Floats, change_N: Floats) -> Integers:
    """Two samples of each prompt, most changed first: of its last step, and of its first."""
    moved_N = np.where(change_N == 0, np.nan, np.abs(change_N))
    order: list[int] = []
    for i in samples.top(moved_N, SHOWN_PROMPTS, samples.prompts_N):
        own = np.flatnonzero(samples.prompts_N == samples.prompts_N[i])
        earliest = own[samples.steps_N[own] == first_N[i]]
        latest = own[samples.steps_N[own] == samples.steps_N[own].max()]
        order += [_find_typical(samples, part) for part in (latest, earliest)]
    return np.array(order, dtype=np.int64)


def _find_typical(samples: SampleColumns, own: Integers) -> int:
    """The newest of these samples whose total is nearest to their mean."""
    totals = samples.totals_N[own]
    far = np.abs(totals - np.nanmean(totals))
    return int(own[np.flatnonzero(far == np.nanmin(far))[-1]])


def _rank(views: Views) -> list[tuple[int, dict[str, int]]]:
    """Samples of all views in turn, each with its place in the views that have it."""
    ranks: dict[int, dict[str, int]] = {}
    for turn in zip_longest(*views.orders.values()):
        ranks |= {int(i): {} for i in turn if i is not None and int(i) not in ranks}
    for name, order in views.orders.items():
        for rank, i in enumerate(order):
            ranks[int(i)].setdefault(name, rank)
    return list(ranks.items())


def _take_turns(
    queues: Sequence[list[tuple[int, dict[str, int]]]],
) -> Iterator[tuple[int, int, dict[str, int]]]:
    for turn in zip_longest(*queues):
        for place, found in enumerate(turn):
            if found is not None:
                yield place, *found


def _row(
    run: SavedRun,
    views: Views,
    record: NumberedSample,
    sample: int,
    ranks: Mapping[str, int],
    rewards: Sequence[str],
) -> Row:
    values = record.get("rewards", {})
    columns = run.sample_columns
    changes = (views.change_N[sample], views.disagreement_N[sample])
    of_episode = (columns.turns_N[sample], columns.slowest_N[sample])
    conversation = read_conversation(record)
    prompt, completion = _texts(record)
    return Row(
        run=run.name,
        ranks=ranks,
        step=record["step"],
        total=record.get("reward"),
        rewards=[values.get(name) for name in rewards],
        prompt=prompt,
        completion=completion if conversation is None else conversation.summary,
        conversation=conversation,
        further=[*_finite(changes), record.get("tokens"), *_finite(of_episode)],
        origin=_origin(record),
    )


def _finite(values: Sequence[float]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _format_rewards(record: NumberedSample) -> str:
    rewards = record.get("rewards", {})
    return "\n".join(f"{format_number(value)} {name}" for name, value in rewards.items())


def _texts(record: NumberedSample) -> tuple[str, str]:
    answer = record.get("answer")
    prompt = shorten(record["prompt"])
    asked = prompt if answer is None else f"{prompt}\n\nanswer: {shorten(str(answer))}"
    cut = "\n[truncated]" if record.get("truncated") else ""
    return asked, (as_text(record) or shorten(record["completion"])) + cut


def _origin(record: NumberedSample, with_step: bool = False) -> str:
    step = f"step {record['step']}" if with_step else ""
    return join_lines([step, record.get("prompt_id", ""), f"line {record['line']}"])
