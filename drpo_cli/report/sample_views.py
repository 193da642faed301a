"""Which samples a page shows, and in which orders: it has no room for all of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from drpo_cli.runs.samples import Floats, Integers, SampleColumns, measure_disagreement, standardize
from drpo_cli.runs.spec import Roles, role_of

SHOWN = 60  # samples of a view
SHOWN_PROMPTS = 25  # prompts of the view of changed ones, two samples each

TITLES = {
    "newest": "newest, one a prompt",
    "best": "highest total",
    "worst": "lowest total",
    "changed": "most changed prompts",
    "counting": "rewards that count disagree most",
    "disagreeing": "rewards disagree most, metrics included",
}


@dataclass(frozen=True)
class Views:
    """Orders of samples by a name of `TITLES`, and what some of them are by.

    disagreement_N  largest less smallest standardized reward
    change_N        mean total of the sample's prompt at its last step less that at its first
    """

    orders: Mapping[str, Integers]
    disagreement_N: Floats
    change_N: Floats


def views(archive: SampleColumns, roles: Roles) -> Views:
    """Every view that has a sample; in one, equal completions are shown once."""
    once, totals_N = archive.texts_N, archive.totals_N
    first_N, change_N = _change(archive)
    columns = {
        name: role_of(roles, name).sign * standardize(values_N)
        for name, values_N in archive.by_reward.items()
    }
    counting = [name for name in columns if role_of(roles, name).counts]
    orders = {
        "newest": archive.top(archive.steps_N, SHOWN, archive.prompts_N),
        "best": archive.top(totals_N, SHOWN, once),
        "worst": archive.top(-totals_N, SHOWN, once),
        "changed": _changed(archive, first_N, change_N),
    }
    spread_N = np.full(len(archive), np.nan)
    if len(columns) > 1:
        spread_N = measure_disagreement(columns.values())
        if len(counting) > 1:
            counted_N = measure_disagreement([columns[name] for name in counting])
            orders["counting"] = archive.top(counted_N, SHOWN, once)
        if len(columns) > max(1, len(counting)):
            orders["disagreeing"] = archive.top(spread_N, SHOWN, once)
    return Views({name: found for name, found in orders.items() if len(found)}, spread_N, change_N)


def _change(archive: SampleColumns) -> tuple[Floats, Floats]:
    """The first step of each sample's prompt; and how its mean total changed until its last, [N].

    NaN for a prompt that was sampled on one step only, or has no total on one of the two.
    """
    _, prompt_N = np.unique(archive.prompts_N, return_inverse=True)
    count = int(prompt_N.max()) + 1 if len(prompt_N) else 0
    first_M, last_M = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(first_M, prompt_N, archive.steps_N)
    np.maximum.at(last_M, prompt_N, archive.steps_N)
    means = []
    for step_M in (first_M, last_M):
        there_N = (archive.steps_N == step_M[prompt_N]) & np.isfinite(archive.totals_N)
        sums_M = np.bincount(prompt_N[there_N], archive.totals_N[there_N], minlength=count)
        with np.errstate(invalid="ignore"):
            means.append(sums_M / np.bincount(prompt_N[there_N], minlength=count))
    change_M = np.where(last_M > first_M, means[1] - means[0], np.nan)
    return first_M[prompt_N], change_M[prompt_N]


def _changed(archive: SampleColumns, first_N: Floats, change_N: Floats) -> Integers:
    """Of each prompt, most changed first: its newest sample of its last and of its first step."""
    moved_N = np.where(change_N == 0, np.nan, np.abs(change_N))
    order: list[int] = []
    for i in archive.top(moved_N, SHOWN_PROMPTS, archive.prompts_N):
        own = np.flatnonzero(archive.prompts_N == archive.prompts_N[i])
        earliest = own[archive.steps_N[own] == first_N[i]]
        latest = own[archive.steps_N[own] == archive.steps_N[own].max()]
        order += [_typical(archive, part) for part in (latest, earliest)]
    return np.array(order, dtype=np.int64)


def _typical(archive: SampleColumns, own: Integers) -> int:
    """The newest of these samples whose total is nearest to their mean."""
    totals = archive.totals_N[own]
    far = np.abs(totals - np.nanmean(totals))
    return int(own[np.flatnonzero(far == np.nanmin(far))[-1]])
