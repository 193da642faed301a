"""From scored groups to the problems of an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from drpo_cli.evaluate.metrics import ProblemResult
from drpo_cli.types import Group, Scores


def problem_results(groups_P: Sequence[Group], scores_P: Sequence[Scores]) -> list[ProblemResult]:
    """One result a held-out problem: the total reward and the text of each response."""
    return [
        ProblemResult(
            id=group.prompt.id,
            prompt_hash=hashlib.sha256(group.prompt.text.encode()).hexdigest()[:16],
            scores=scores.total_G,
            texts=tuple(rollout.text for rollout in group.rollouts_G),
        )
        for group, scores in zip(groups_P, scores_P, strict=True)
    ]
