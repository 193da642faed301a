"""Results of held-out problems, held-out scores, and differences between them."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from drpo_cli.evaluate.metrics import Estimate, ProblemResult, estimate_difference
from drpo_cli.types import Group, Prompt, Scores

T = TypeVar("T")


@dataclass(frozen=True)
class HeldOut:
    """A held-out score and the rates of its problems.

    unscored   responses that count as wrong because a reward failed on them
    rates_P    share of right responses of each problem
    by_source  the mean of the problems of each source; empty for one source
    """

    score: Estimate
    unscored: int
    rates_P: tuple[float, ...] = ()
    by_source: Mapping[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, Any]:
        """The score as keys of a step's metrics."""
        low, high = self.score.low, self.score.high
        more = {"held_out_unscored": self.unscored, "held_out_by_source": self.by_source}
        return {
            "held_out": self.score.value,
            "held_out_low": low,
            "held_out_high": high,
            **{name: value for name, value in more.items() if value},
        }


@dataclass(frozen=True)
class Difference:
    """How much higher the second score is than the first, in [−1, 1].

    estimate    with an interval where the difference is paired
    pairs       problems, or seeds, over which it is paired; 0 for a difference of two means
    detectable  the smallest difference that so many pairs with their spread show in 80 of 100 cases
                (two-sided test at 5 %); None where the difference has no interval
    """

    first: str
    second: str
    estimate: Estimate
    pairs: int
    detectable: float | None = None


def pair_differences(
    first: str,
    before: Sequence[float],
    second: str,
    after: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
) -> Difference:
    """The mean difference over pairs, with a 95 % interval; values are shares in [0, 1].

    Pairs of the same cluster count as one, if given.
    """
    pairs = [new - old for old, new in zip(before, after, strict=True)]
    found, detectable = estimate_difference(pairs, clusters)
    return Difference(first, second, found, len(pairs), detectable)


def split_by_source(ids: Sequence[str], values: Sequence[T]) -> dict[str, list[T]]:
    """The values of each source's problems, by its name; the ids are those of `Prompt`."""
    found: dict[str, list[T]] = {}
    for id, value in zip(ids, values, strict=True):
        found.setdefault(id.rpartition("/")[0].removeprefix("eval:"), []).append(value)
    return found


def problem_results(groups_P: Sequence[Group], scores_P: Sequence[Scores]) -> list[ProblemResult]:
    """One result per held-out problem: the total reward and the text of each response."""
    return [
        ProblemResult(
            id=group.prompt.id,
            prompt_hash=hashlib.sha256(group.prompt.text.encode()).hexdigest()[:16],
            scores=scores.total_G,
            texts=tuple(rollout.text for rollout in group.rollouts_G),
            truncated=sum(rollout.truncated for rollout in group.rollouts_G),
        )
        for group, scores in zip(groups_P, scores_P, strict=True)
    ]


def held_out_id(prompts: Sequence[Prompt], conditions: Sequence[object]) -> str:
    """Hash of the problems of a held-out score; equal for runs whose scores can be compared.

    `conditions` are what else the score depends on: how responses are sampled, when one is right.
    """
    content = [(prompt.text, prompt.answer) for prompt in prompts], list(conditions)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
