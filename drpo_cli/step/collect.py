"""The rollouts of a step, scored: one batch of prompts, or more until enough groups can teach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from drpo_cli.dist import World
from drpo_cli.evaluate.metrics import is_right
from drpo_cli.rewards.grading.grader import Graded, Usage
from drpo_cli.types import Group, Scores

Draw = Callable[[int], tuple[list[Group], Graded]]
"""Samples and grades this rank's next prompts; the argument counts the rounds from 0."""


@dataclass
class Collected:
    """This rank's groups of a step.

    drawn   rollouts sampled for it, used or not, with their scores
    usage   what each reward did for it
    rounds  batches of prompts sampled
    """

    groups_P: list[Group] = field(default_factory=list)
    scores_P: list[Scores] = field(default_factory=list)
    drawn: list[tuple[Group, Scores]] = field(default_factory=list)
    usage: dict[str, Usage] = field(default_factory=dict)
    rounds: int = 0

    def add(self, groups_P: list[Group], graded: Graded) -> None:
        """Takes a batch in."""
        self.drawn += zip(groups_P, graded.scores_P, strict=True)
        self.rounds += 1
        for name, usage in graded.usage.items():
            self.usage.setdefault(name, Usage()).merge(usage)

    def use(self, pairs: Sequence[tuple[Group, Scores]]) -> None:
        """Says which groups the step is made of."""
        self.groups_P, self.scores_P = [g for g, _ in pairs], [s for _, s in pairs]


def collect(draw: Draw, further_rounds: int, world: World) -> Collected:
    """One batch; with `further_rounds`, groups of equal scores are replaced while rounds are left.

    Dynamic sampling of DAPO (arXiv 2503.14476, §3.2). Every rank samples as many rounds as the one
    that needs most. What is still missing in the end is filled with the groups that were dropped
    first, so that a step always has its number of groups. Collective.
    """
    found = Collected()
    useful: list[tuple[Group, Scores]] = []
    flat: list[tuple[Group, Scores]] = []
    for at in range(1 + further_rounds):
        first = len(found.drawn)
        found.add(*draw(at))
        if not further_rounds:
            found.use(found.drawn)
            return found
        for pair in found.drawn[first:]:
            (useful if teaches(pair[1]) else flat).append(pair)
        wanted = len(found.drawn) // found.rounds
        if world.max([wanted - len(useful)])[0] <= 0:
            break
    found.use((useful + flat)[:wanted])
    return found


def teaches(scores: Scores) -> bool:
    """Whether the responses of a group differ in their total, so that advantages are not all 0."""
    return len(set(scores.kept_totals)) > 1


def pass_rates(found: Collected, threshold: float, world: World) -> dict[str, float]:
    """Share of right samples of every prompt drawn, by its id, over all ranks. Collective."""
    own = {
        group.prompt.id: right / len(totals)
        for group, scores in found.drawn
        if (totals := scores.kept_totals)
        for right in [sum(is_right(total, threshold) for total in totals)]
    }
    return {id: rate for rates in world.gather_objects(own) for id, rate in rates.items()}


def sampling_metrics(found: Collected, world: World) -> dict[str, float]:
    """What dynamic sampling cost and reached, over all ranks. Collective."""
    flat = sum(not teaches(scores) for scores in found.scores_P)
    dropped, missing = world.sum([len(found.drawn) - len(found.groups_P), flat])
    return {
        "sampling_rounds": float(found.rounds),
        "dropped_groups": dropped,
        "missing_groups": missing,
    }
