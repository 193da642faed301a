"""The metrics of sampling and grading, over all ranks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from drpo_cli.types import Group, Scores

if TYPE_CHECKING:
    from drpo_cli.dist import World
    from drpo_cli.experience import Experience
    from drpo_cli.rewards.grading.grader import Usage


def rollout_metrics(exp: Experience, scores_P: Sequence[Scores], world: World) -> dict[str, Any]:
    """Rewards, groups without a learning signal, lengths and truncation; collective.

    Each episode counts once, however many rows it has; its length is what the policy sampled in it.
    Total rewards are those that training sees, of episodes that have one; None if there is none. A
    reward's mean is over the samples it has a value of; one without any in the step is left out.
    """
    first_E = exp.first_E
    group_E = exp.group_S[first_E].tolist()
    total_E, scored_E = exp.score_S[first_E].tolist(), exp.scored_S[first_E].tolist()
    totals = [total for total, scored in zip(total_E, scored_E, strict=True) if scored]
    by_group: dict[int, set[float]] = {group: set() for group in group_E}
    for group, total, scored in zip(group_E, total_E, scored_E, strict=True):
        if scored:
            by_group[group].add(total)
    means = _means(
        {
            "reward": totals,
            "square": [total**2 for total in totals],
            "zero_advantage_groups": [len(different) <= 1 for different in by_group.values()],
            "response_length": exp.sampled_E.tolist(),
            "truncated_share": exp.truncated_S[first_E].tolist(),
        },
        world,
    )
    mean, square = means["reward"], means.pop("square")
    std = None if mean is None or square is None else math.sqrt(max(0.0, square - mean**2))
    return {
        **means,
        "reward_std": std,
        "rewards": _means(_by_reward(scores_P), world),
        "skipped_samples": int(world.sum([scored_E.count(False)])[0]),
    }


def grading_metrics(usage: Mapping[str, Usage], world: World) -> dict[str, Any]:
    """The cost and the failures of each reward, over all ranks. Collective.

    calls     calls made
    seconds   time spent in them, summed
    slowest   seconds of the slowest one
    failures  failed calls by kind
    counts    what the reward itself counted: tokens, cost
    """
    everyone = world.gather_objects(dict(usage))
    names = sorted({name for own in everyone for name in own})
    return {name: _together([own[name] for own in everyone if name in own]) for name in names}


def generated_tokens(groups_P: Sequence[Group], world: World) -> float:
    """The tokens that the policy sampled in all ranks' groups. Collective."""
    own = sum(rollout.sampled_tokens for group in groups_P for rollout in group.rollouts_G)
    return world.sum([own])[0]


def _by_reward(scores_P: Sequence[Scores]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for scores in scores_P:
        for name, values_G in scores.by_reward.items():
            found.setdefault(name, []).extend(v for v in values_G if v is not None)
    return {name: values for name, values in found.items() if values}


def _means(columns: Mapping[str, Iterable[float]], world: World) -> dict[str, float | None]:
    # One exchange for all: ranks may have different columns, but must make the same calls
    own = {}
    for name, column in columns.items():
        values = [float(value) for value in column]
        own[name] = (math.fsum(values), len(values))
    everyone = world.gather_objects(own)
    means: dict[str, float | None] = {}
    for name in dict.fromkeys(name for sums in everyone for name in sums):
        totals, counts = zip(*(sums[name] for sums in everyone if name in sums), strict=True)
        means[name] = math.fsum(totals) / sum(counts) if sum(counts) else None
    return means


def _together(parts: Sequence[Usage]) -> dict[str, Any]:
    return {
        "calls": sum(part.calls for part in parts),
        "seconds": math.fsum(part.seconds for part in parts),
        "slowest": max(part.slowest for part in parts),
        "failures": dict(sum((part.failures for part in parts), Counter())),
        "counts": dict(sum((part.counts for part in parts), Counter())),
    }
