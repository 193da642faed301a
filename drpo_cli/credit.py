"""From scored groups to what the trainer learns from: an advantage for every response token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from drpo_cli.dist import World
from drpo_cli.plugins import Selected
from drpo_cli.trainer.critic import Critic, whitened
from drpo_cli.trainer.pack import Sample, samples_of
from drpo_cli.types import Group, Scores


def credited(
    groups_P: Sequence[Group],
    scores_P: Sequence[Scores],
    advantage: Selected,
    critic: Critic | None,
    world: World,
) -> list[Sample]:
    """The rollouts of all groups in order, with their advantages. Collective."""
    scores_PG = [scores.total_G for scores in scores_P]
    samples = samples_of(groups_P)
    if getattr(advantage.module, "TOKEN_LEVEL", False):
        if critic is None:
            raise ValueError(f"advantage {advantage.type!r} without a critic: the rules refuse it")
        return _with_values(samples, scores_PG, advantage, critic, world)
    adv_PG = _of_all_ranks(scores_PG, advantage, world)
    flat = [adv for adv_G in adv_PG for adv in adv_G]
    return [
        replace(sample, advantages=(adv,) * len(sample.response_ids))
        for sample, adv in zip(samples, flat, strict=True)
    ]


def _of_all_ranks(
    scores_PG: Sequence[Sequence[float]], advantage: Selected, world: World
) -> list[list[float]]:
    """This rank's advantages, which may depend on every rank's scores."""
    parts = world.gather_objects([list(scores_G) for scores_G in scores_PG])
    first = sum(len(part) for part in parts[: world.rank])
    everyone = [scores_G for part in parts for scores_G in part]
    adv_PG: list[list[float]] = advantage.module.advantages(advantage.config, everyone)
    return adv_PG[first : first + len(scores_PG)]


def _with_values(
    samples: Sequence[Sample],
    scores_PG: Sequence[Sequence[float]],
    advantage: Selected,
    critic: Critic,
    world: World,
) -> list[Sample]:
    values = critic.values(samples)
    left = iter(values)
    values_PG = [[next(left) for _ in scores_G] for scores_G in scores_PG]
    adv_PG = advantage.module.advantages(advantage.config, scores_PG, values_PG)
    adv_SR = [tuple(adv_R) for adv_G in adv_PG for adv_R in adv_G]
    shown_SR = whitened(adv_SR, world) if critic.settings.whiten else adv_SR
    return [
        replace(
            sample,
            advantages=shown_R,
            values=value_R,
            returns=tuple(a + v for a, v in zip(adv_R, value_R, strict=True)),
        )
        for sample, shown_R, adv_R, value_R in zip(samples, shown_SR, adv_SR, values, strict=True)
    ]
