"""From scores to an advantage for every response token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.plugins import Selected
from drpo_cli.settings import AdvantageSettings
from drpo_cli.trainer.critic import Critic, whiten

V = TypeVar("V")


def with_advantages(
    exp: Experience, advantage: Selected[AdvantageSettings], critic: Critic | None, world: World
) -> Experience:
    """Adds the advantages: the group's baseline, repeated per token, or a critic's per token.

    Rows without a score get 0 from a group advantage, and take no part in any. Collective.
    """
    if not advantage.plugin.token_level:
        adv_S = torch.tensor(_of_groups(exp, advantage, world), dtype=torch.float64)
        return replace(exp, advantage_T=exp.repeat(adv_S))
    if critic is None:
        raise ValueError(f"advantage {advantage.type!r} needs a critic; the rules refuse this spec")
    return _from_values(exp, advantage, critic, world)


def _of_groups(
    exp: Experience, advantage: Selected[AdvantageSettings], world: World
) -> list[float]:
    """The advantage of each row: 0 without a score, and where too few of a group have one."""
    smallest = getattr(advantage.config, "min_group", advantage.plugin.min_group)
    scores_PG = [
        [score for score, scored in rows if scored]
        for rows in _by_group(exp, zip(exp.score_S.tolist(), exp.scored_S.tolist(), strict=True))
    ]
    found = iter(_of_all_ranks([s for s in scores_PG if len(s) >= smallest], advantage, world))
    adv_PG = [next(found) if len(s) >= smallest else [0.0] * len(s) for s in scores_PG]
    scored_adv = iter([adv for adv_G in adv_PG for adv in adv_G])
    return [next(scored_adv) if scored else 0.0 for scored in exp.scored_S.tolist()]


def _of_all_ranks(
    scores_PG: Sequence[Sequence[float]], advantage: Selected[AdvantageSettings], world: World
) -> list[list[float]]:
    """The advantages of this rank's groups; they may depend on the scores of every rank."""
    parts = world.gather_objects([list(scores_G) for scores_G in scores_PG])
    first = sum(len(part) for part in parts[: world.rank])
    everyone = [scores_G for part in parts for scores_G in part]
    adv_PG: list[list[float]] = advantage.plugin.entry(advantage.config, everyone)
    return adv_PG[first : first + len(scores_PG)]


def _from_values(
    exp: Experience, advantage: Selected[AdvantageSettings], critic: Critic, world: World
) -> Experience:
    """Advantages from a critic's values, with the values and returns that the critic learns."""
    value_T = critic.values(exp)
    values_PG = _by_group(exp, [value.tolist() for value in exp.split(value_T)])
    scores_PG = _by_group(exp, exp.score_S.tolist())
    adv_PG = advantage.plugin.entry(advantage.config, scores_PG, values_PG)
    flat = [adv for adv_G in adv_PG for adv_row in adv_G for adv in adv_row]
    adv_T = torch.tensor(flat, dtype=torch.float64)
    shown_T = _whiten_scored(exp, adv_T, world) if critic.settings.whiten else adv_T
    return replace(exp, advantage_T=shown_T, value_T=value_T, return_T=adv_T + value_T)


def _whiten_scored(exp: Experience, adv_T: Tensor, world: World) -> Tensor:
    """Whitens over the rows that have a score; the others stay as they are."""
    scored_T = exp.repeat(exp.scored_S)
    whitened_T = adv_T.clone()
    whitened_T[scored_T] = whiten(adv_T[scored_T], world)
    return whitened_T


def _by_group(exp: Experience, values_S: Iterable[V]) -> list[list[V]]:
    """One value per row as a list per group."""
    left = iter(values_S)
    return [[next(left) for _ in range(size)] for size in torch.bincount(exp.group_S).tolist()]
