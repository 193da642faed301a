"""The metrics of a rollout, over all ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from drpo_cli.dist import World
from drpo_cli.types import Group, Scores


def rollout_metrics(
    groups_P: Sequence[Group], scores_P: Sequence[Scores], world: World
) -> dict[str, Any]:
    """Rewards, groups without a learning signal, lengths and truncation; collective."""
    rollouts = [rollout for group in groups_P for rollout in group.rollouts_G]
    totals = [score for scores in scores_P for score in scores.total_G]
    flat = [len(set(scores.total_G)) == 1 for scores in scores_P]
    names = sorted(scores_P[0].by_reward)
    by_reward = {name: _mean([s.by_reward[name] for s in scores_P], world) for name in names}
    mean = _mean([totals], world)
    square = _mean([[score**2 for score in totals]], world)
    return {
        "reward": mean,
        "reward_std": math.sqrt(max(0.0, square - mean**2)),
        "rewards": by_reward,
        "zero_advantage_groups": _mean([flat], world),
        "response_length": _mean([[len(r.token_ids) for r in rollouts]], world),
        "truncated_share": _mean([[r.truncated for r in rollouts]], world),
    }


def generated_tokens(groups_P: Sequence[Group], world: World) -> float:
    """Response tokens of all ranks' groups; collective."""
    own = sum(len(rollout.token_ids) for group in groups_P for rollout in group.rollouts_G)
    return world.sum([own])[0]


def sample_records(
    step: int, groups_P: Sequence[Group], scores_P: Sequence[Scores], count: int
) -> list[dict[str, Any]]:
    """The first `count` groups of a step as lines of samples.jsonl, one a rollout."""
    return [
        {
            "step": step,
            "prompt_id": group.prompt.id,
            "prompt": group.prompt.text,
            "answer": group.prompt.answer,
            "completion": rollout.text,
            "truncated": rollout.truncated,
            "reward": scores.total_G[i],
            "rewards": {name: values[i] for name, values in scores.by_reward.items()},
        }
        for group, scores in list(zip(groups_P, scores_P, strict=True))[:count]
        for i, rollout in enumerate(group.rollouts_G)
    ]


def _mean(groups: Iterable[Iterable[float]], world: World) -> float:
    values = [float(value) for group in groups for value in group]
    total, count = world.sum([math.fsum(values), len(values)])
    return total / count
