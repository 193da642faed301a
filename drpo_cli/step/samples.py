"""The lines of samples.jsonl: what was sampled in a step, and what it scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from drpo_cli.types import Group, Scores

if TYPE_CHECKING:
    from drpo_cli.experience import Experience


def sample_records(
    step: int,
    groups_P: Sequence[Group],
    scores_P: Sequence[Scores],
    exp: Experience,
    count: int | None,
) -> list[dict[str, Any]]:
    """A step's groups as lines of samples.jsonl, one per rollout: the first `count`, or all.

    `reward` is the total that training saw; None for a sample that was skipped.
    """
    totals = zip(exp.score_S.tolist(), exp.scored_S.tolist(), strict=True)
    reward_S = iter([total if scored else None for total, scored in totals])
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
            "reward": next(reward_S),
            "rewards": {name: values[i] for name, values in scores.by_reward.items()},
        }
        for group, scores in list(zip(groups_P, scores_P, strict=True))[:count]
        for i, rollout in enumerate(group.rollouts_G)
    ]


def _json(value: Any) -> Any:
    # Values that JSON cannot hold are kept as text
    if isinstance(value, Mapping):
        return {str(key): _json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float) else repr(value)
