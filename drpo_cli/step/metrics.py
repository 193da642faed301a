"""The metrics of a rollout, over all ranks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from drpo_cli.types import Group, Scores

if TYPE_CHECKING:
    from drpo_cli.dist import World
    from drpo_cli.rewards.grading.grader import Usage


def rollout_metrics(
    groups_P: Sequence[Group], scores_P: Sequence[Scores], world: World
) -> dict[str, Any]:
    """Rewards, groups without a learning signal, lengths and truncation; collective.

    Totals are those of samples that were not skipped, and None where there is none. A reward's mean
    is over the samples it has a value of; one without any in the step is left out.
    """
    rollouts = [rollout for group in groups_P for rollout in group.rollouts_G]
    kept_P = [_kept(scores) for scores in scores_P]
    totals = [score for kept_G in kept_P for score in kept_G]
    means = _means(
        {
            "reward": totals,
            "square": [score**2 for score in totals],
            "zero_advantage_groups": [len(set(kept_G)) <= 1 for kept_G in kept_P],
            "response_length": [len(rollout.token_ids) for rollout in rollouts],
            "truncated_share": [rollout.truncated for rollout in rollouts],
        },
        world,
    )
    mean, square = means["reward"], means.pop("square")
    std = None if mean is None or square is None else math.sqrt(max(0.0, square - mean**2))
    return {
        **means,
        "reward_std": std,
        "rewards": _means(_by_reward(scores_P), world),
        "skipped_samples": int(world.sum([sum(len(s.skipped) for s in scores_P)])[0]),
    }


def grading_metrics(usage: Mapping[str, Usage], world: World) -> dict[str, Any]:
    """By reward, what grading took and how often it failed on all ranks; collective.

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
    """Response tokens of all ranks' groups; collective."""
    own = sum(len(rollout.token_ids) for group in groups_P for rollout in group.rollouts_G)
    return world.sum([own])[0]


def sample_records(
    step: int, groups_P: Sequence[Group], scores_P: Sequence[Scores], count: int | None
) -> list[dict[str, Any]]:
    """A step's groups as lines of samples.jsonl, one a rollout: the first `count`, or all."""
    return [
        {
            "step": step,
            "prompt_id": group.prompt.id,
            "sample": i,
            "prompt": group.prompt.text,
            "answer": group.prompt.answer,
            "metadata": _json(group.prompt.metadata),
            "completion": rollout.text,
            "truncated": rollout.truncated,
            "tokens": len(rollout.token_ids),
            "reward": None if i in scores.skipped else scores.total_G[i],
            "rewards": {name: values[i] for name, values in scores.by_reward.items()},
        }
        for group, scores in list(zip(groups_P, scores_P, strict=True))[:count]
        for i, rollout in enumerate(group.rollouts_G)
    ]


def _kept(scores: Scores) -> list[float]:
    return [total for i, total in enumerate(scores.total_G) if i not in scores.skipped]


def _by_reward(scores_P: Sequence[Scores]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for scores in scores_P:
        for name, values_G in scores.by_reward.items():
            found.setdefault(name, []).extend(v for v in values_G if v is not None)
    return {name: values for name, values in found.items() if values}


def _means(columns: Mapping[str, Iterable[float]], world: World) -> dict[str, float | None]:
    # In one exchange: ranks need not have the same columns, yet must make the same collective calls
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


def _json(value: Any) -> Any:
    # What JSON cannot hold is kept as text
    if isinstance(value, Mapping):
        return {str(key): _json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float) else repr(value)
