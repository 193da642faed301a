"""The rollouts of a step, scored: one batch of prompts, or more until enough groups can teach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from drpo_cli.dist import World
from drpo_cli.types import Group, Scores

Draw = Callable[[int], tuple[list[Group], list[Scores]]]
"""Samples and scores this rank's next prompts; the argument counts the rounds from 0."""


@dataclass
class Collected:
    """This rank's groups of a step.

    drawn   rollouts sampled for it, kept or not
    rounds  batches of prompts sampled
    """

    groups_P: list[Group] = field(default_factory=list)
    scores_P: list[Scores] = field(default_factory=list)
    drawn: list[Group] = field(default_factory=list)
    rounds: int = 0


def collect(draw: Draw, further_rounds: int, world: World) -> Collected:
    """One batch; with `further_rounds`, groups of equal scores are replaced while rounds are left.

    Dynamic sampling of DAPO (arXiv 2503.14476, §3.2). Every rank samples as many rounds as the one
    that needs most. What is still missing in the end is filled with the groups that were dropped
    first, so that a step always has its number of groups. Collective.
    """
    found = Collected()
    if not further_rounds:
        found.groups_P, found.scores_P = draw(0)
        found.drawn, found.rounds = found.groups_P, 1
        return found
    useful: list[tuple[Group, Scores]] = []
    flat: list[tuple[Group, Scores]] = []
    wanted = 0
    for at in range(1 + further_rounds):
        groups_P, scores_P = draw(at)
        wanted = wanted or len(groups_P)
        found.drawn += groups_P
        found.rounds += 1
        for pair in zip(groups_P, scores_P, strict=True):
            (useful if teaches(pair[1]) else flat).append(pair)
        if world.max([wanted - len(useful)])[0] <= 0:
            break
    kept = (useful + flat)[:wanted]
    found.groups_P, found.scores_P = [g for g, _ in kept], [s for _, s in kept]
    return found


def teaches(scores: Scores) -> bool:
    """Whether the responses of a group differ in their total, so that advantages are not all 0."""
    return len(set(scores.total_G)) > 1


def sampling_metrics(found: Collected, world: World) -> dict[str, float]:
    """What dynamic sampling cost and reached, over all ranks. Collective."""
    flat = sum(not teaches(scores) for scores in found.scores_P)
    dropped, missing = world.sum([len(found.drawn) - len(found.groups_P), flat])
    return {
        "sampling_rounds": float(found.rounds),
        "dropped_groups": dropped,
        "missing_groups": missing,
    }
