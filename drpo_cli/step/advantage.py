"""From scored groups to what the trainer learns from: an advantage for every response token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from drpo_cli.dist import World
from drpo_cli.plugins import Selected
from drpo_cli.settings import AdvantageSettings
from drpo_cli.trainer.critic import Critic, whitened
from drpo_cli.trainer.pack import Sample, samples_of
from drpo_cli.types import Group, Scores


def credited(
    groups_P: Sequence[Group],
    scores_P: Sequence[Scores],
    advantage: Selected[AdvantageSettings],
    critic: Critic | None,
    world: World,
) -> list[Sample]:
    """The rollouts of all groups in order, with their advantages. Collective."""
    samples = samples_of(groups_P)
    if advantage.plugin.token_level:
        if critic is None:
            raise ValueError(f"advantage {advantage.type!r} without a critic: the rules refuse it")
        samples = _with_values(samples, scores_P, advantage, critic, world)
    else:
        flat = [adv for adv_G in _of_groups(scores_P, advantage, world) for adv in adv_G]
        samples = [
            replace(sample, advantages=(adv,) * len(sample.response_ids))
            for sample, adv in zip(samples, flat, strict=True)
        ]
    kept = _kept(scores_P)
    return [replace(sample, kept=keep) for sample, keep in zip(samples, kept, strict=True)]


def _kept(scores_P: Sequence[Scores]) -> list[bool]:
    return [i not in scores.skipped for scores in scores_P for i in range(len(scores.total_G))]


def _of_groups(
    scores_P: Sequence[Scores], advantage: Selected[AdvantageSettings], world: World
) -> Iterator[list[float]]:
    """Each group's advantages: 0 for skipped samples, and where too few are left to compare."""
    smallest = getattr(advantage.config, "min_group", advantage.plugin.min_group)
    totals_P = [scores.kept_totals for scores in scores_P]
    large = [totals for totals in totals_P if len(totals) >= smallest]
    found = iter(_of_all_ranks(large, advantage, world))
    for scores, totals in zip(scores_P, totals_P, strict=True):
        left = iter(next(found) if len(totals) >= smallest else [0.0] * len(totals))
        yield [0.0 if i in scores.skipped else next(left) for i in range(len(scores.total_G))]


def _of_all_ranks(
    scores_PG: Sequence[Sequence[float]], advantage: Selected[AdvantageSettings], world: World
) -> list[list[float]]:
    """This rank's advantages, which may depend on every rank's scores."""
    parts = world.gather_objects([list(scores_G) for scores_G in scores_PG])
    first = sum(len(part) for part in parts[: world.rank])
    everyone = [scores_G for part in parts for scores_G in part]
    adv_PG: list[list[float]] = advantage.plugin.entry(advantage.config, everyone)
    return adv_PG[first : first + len(scores_PG)]


def _with_values(
    samples: Sequence[Sample],
    scores_P: Sequence[Scores],
    advantage: Selected[AdvantageSettings],
    critic: Critic,
    world: World,
) -> list[Sample]:
    values = critic.values(samples)
    left = iter(values)
    scores_PG = [scores.total_G for scores in scores_P]
    values_PG = [[next(left) for _ in scores_G] for scores_G in scores_PG]
    adv_PG = advantage.plugin.entry(advantage.config, scores_PG, values_PG)
    adv_SR = [tuple(adv_R) for adv_G in adv_PG for adv_R in adv_G]
    shown_SR = _whitened(adv_SR, _kept(scores_P), world) if critic.settings.whiten else adv_SR
    return [
        replace(
            sample,
            advantages=shown_R,
            values=value_R,
            returns=tuple(a + v for a, v in zip(adv_R, value_R, strict=True)),
        )
        for sample, shown_R, adv_R, value_R in zip(samples, shown_SR, adv_SR, values, strict=True)
    ]


def _whitened(
    adv_SR: Sequence[tuple[float, ...]], kept: Sequence[bool], world: World
) -> list[tuple[float, ...]]:
    """Whitened over the samples that are learned from; the others stay as they are."""
    shown = iter(whitened([adv_R for adv_R, keep in zip(adv_SR, kept, strict=True) if keep], world))
    return [next(shown) if keep else adv_R for adv_R, keep in zip(adv_SR, kept, strict=True)]
