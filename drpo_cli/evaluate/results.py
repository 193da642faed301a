"""From scored groups to the problems of an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from drpo_cli.evaluate.metrics import Estimate, ProblemResult
from drpo_cli.types import Group, Prompt, Scores


@dataclass(frozen=True)
class HeldOut:
    """A held-out score, and what it is made of.

    unscored  responses that count as wrong because a reward failed on them
    rates_P   share of right responses of each problem
    """

    score: Estimate
    unscored: int
    rates_P: tuple[float, ...] = ()

    def metrics(self) -> dict[str, float | None]:
        """The score as a step's record has it."""
        low, high = self.score.low, self.score.high
        found = {"held_out": self.score.value, "held_out_low": low, "held_out_high": high}
        return found | ({"held_out_unscored": self.unscored} if self.unscored else {})


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


def held_out_id(prompts: Sequence[Prompt], conditions: Sequence[object]) -> str:
    """What a held-out score was measured on, equal for two runs whose scores can be compared.

    `conditions` are what else it depends on: how responses are sampled, when one is right.
    """
    content = [(prompt.text, prompt.answer) for prompt in prompts], list(conditions)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
