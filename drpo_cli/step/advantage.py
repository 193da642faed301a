"""From scores to an advantage for every sampled token."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.errors import UserError
from drpo_cli.experience import Experience
from drpo_cli.plugins import Selected
from drpo_cli.settings import AdvantageSettings
from drpo_cli.step.credit import Turns
from drpo_cli.trainer.critic import Critic, whiten
from drpo_cli.types import Group, TurnView

V = TypeVar("V")


def with_advantages(
    exp: Experience,
    advantage: Selected[AdvantageSettings],
    critic: Critic | None,
    world: World,
    groups_P: Sequence[Group] = (),
) -> Experience:
    """Adds the advantages: of an episode, of each of its turns, or of each of its tokens.

    A group is compared by the totals of its episodes; with `credit = "turn"` by what they return
    from each turn on; or as an advantage that sees turns does it, with the text that `groups_P` has
    of them. With a critic, each token has its own. Episodes without a score get 0 from a group
    advantage, and take no part in any. What the policy did not sample has the advantage 0.
    Collective. Raises UserError for an advantage that returns what fits no turns.
    """
    if advantage.plugin.token_level:
        if critic is None:
            raise ValueError(f"advantage {advantage.type!r} needs a critic; the rules refuse this")
        return _from_values(exp, advantage, critic, world, groups_P)
    turns = Turns.of(exp)
    if advantage.plugin.sees_turns:
        adv_U = _of_views(exp, turns, advantage, world, groups_P)
    else:
        adv_U = _of_episodes(exp, advantage, world)[turns.episode_U]
        if advantage.config.credit == "turn":
            adv_U = _of_turns(exp, turns, adv_U, advantage, world)
    return replace(exp, advantage_T=turns.spread(adv_U))


def _of_episodes(exp: Experience, advantage: Selected[AdvantageSettings], world: World) -> Tensor:
    """The advantage of each episode: 0 without a score, and where too few of a group have one."""
    group_E, score_E = exp.group_S[exp.first_E], exp.score_S[exp.first_E]
    scored_E = exp.scored_S[exp.first_E]
    adv_E = torch.zeros_like(score_E)
    found, _ = _compare(group_E[scored_E].tolist(), score_E[scored_E].tolist(), advantage, world)
    adv_E[scored_E] = torch.tensor(found, dtype=torch.float64)
    return adv_E


def _of_turns(
    exp: Experience,
    turns: Turns,
    adv_U: Tensor,
    advantage: Selected[AdvantageSettings],
    world: World,
) -> Tensor:
    """The advantage of each turn among those of its group with the same index, by their returns.

    Where too few have one to be compared, `adv_U` stays: the advantage of the whole episode.
    """
    group_U = exp.group_S[exp.first_E][turns.episode_U]
    scored_U = exp.scored_S[exp.first_E][turns.episode_U]
    keys = list(zip(group_U[scored_U].tolist(), turns.index_U[scored_U].tolist(), strict=True))
    return_U = turns.returns(advantage.config.turn_discount)
    found, compared = _compare(keys, return_U[scored_U].tolist(), advantage, world)
    found_U = torch.tensor(found, dtype=adv_U.dtype)
    compared_U = torch.tensor(compared, dtype=torch.bool)
    return adv_U.masked_scatter(scored_U, torch.where(compared_U, found_U, adv_U[scored_U]))


def _compare(
    keys: Sequence[Hashable],
    scores: Sequence[float],
    advantage: Selected[AdvantageSettings],
    world: World,
) -> tuple[list[float], list[bool]]:
    """The advantage of each score among those with its key, and whether there are enough of them.

    It is 0 where there are not. Collective.
    """
    places: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    smallest = _smallest(advantage)
    large = [own for own in places.values() if len(own) >= smallest]
    adv, compared = [0.0] * len(scores), [False] * len(scores)
    scores_PG = [[scores[place] for place in own] for own in large]
    adv_PG = _of_all_ranks(advantage, world, scores_PG)
    for own, adv_G in zip(large, adv_PG, strict=True):
        for place, value in zip(own, adv_G, strict=True):
            adv[place], compared[place] = value, True
    return adv, compared


def _of_views(
    exp: Experience,
    turns: Turns,
    advantage: Selected[AdvantageSettings],
    world: World,
    groups_P: Sequence[Group],
) -> Tensor:
    """What an advantage that sees turns gives each of them; one number is that of all turns."""
    scored_E, score_E = exp.scored_S[exp.first_E].tolist(), exp.score_S[exp.first_E].tolist()
    views_E = turns.views(len(scored_E), groups_P)
    adv_E: list[Sequence[float]] = [[0.0] * len(views) for views in views_E]
    kept_PG = [[e for e in group if scored_E[e]] for group in _by_group(exp, range(len(scored_E)))]
    smallest = _smallest(advantage)
    kept_PG = [kept_G for kept_G in kept_PG if len(kept_G) >= smallest]
    found_PG = _of_all_ranks(
        advantage,
        world,
        [[score_E[e] for e in kept_G] for kept_G in kept_PG],
        [[views_E[e] for e in kept_G] for kept_G in kept_PG],
    )
    for kept_G, found_G in zip(kept_PG, found_PG, strict=True):
        for e, found in zip(kept_G, found_G, strict=True):
            adv_E[e] = _per_turn(found, views_E[e], advantage)
    return torch.tensor([adv for own in adv_E for adv in own], dtype=torch.float64)


def _per_turn(
    found: Any, views: Sequence[TurnView], advantage: Selected[AdvantageSettings]
) -> Sequence[float]:
    own: Sequence[float] = [found] * len(views) if isinstance(found, int | float) else list(found)
    if len(own) != len(views):
        raise UserError(
            f"advantage {advantage.type!r} returned {len(own)} numbers for an episode of "
            f"{len(views)} turns",
            "return one number for each turn, or one for the episode",
        )
    return own


def _smallest(advantage: Selected[AdvantageSettings]) -> int:
    smallest: int = getattr(advantage.config, "min_group", advantage.plugin.min_group)
    return smallest


def _of_all_ranks(
    advantage: Selected[AdvantageSettings],
    world: World,
    scores_PG: Sequence[Sequence[float]],
    turns_PG: Sequence[Sequence[Sequence[TurnView]]] | None = None,
) -> list[list[Any]]:
    """The advantages of this rank's groups; they may depend on the scores of every rank."""
    own = (scores_PG, turns_PG or [])
    parts = world.gather_objects([list(map(list, column)) for column in own])
    first = sum(len(part[0]) for part in parts[: world.rank])
    everyone, turns = ([of for part in parts for of in part[i]] for i in range(2))
    more = {} if turns_PG is None else {"turns_PG": turns}
    adv_PG: list[list[Any]] = advantage.plugin.entry(advantage.config, everyone, **more)
    return adv_PG[first : first + len(scores_PG)]


def _from_values(
    exp: Experience,
    advantage: Selected[AdvantageSettings],
    critic: Critic,
    world: World,
    groups_P: Sequence[Group],
) -> Experience:
    """Advantages from a critic's values, with the values and returns that the critic learns.

    An advantage may give one number per turn: it is that of all the turn's tokens, and the critic
    learns the value of the first.
    """
    sampled_E, value_T = exp.sampled_E.tolist(), critic.values(exp)
    values_E = [own_T.tolist() for own_T in torch.split(value_T[exp.sampled_T], sampled_E)]
    views_E = Turns.of(exp).views(len(sampled_E), groups_P if advantage.plugin.sees_turns else ())
    more = {"turns_PG": _by_group(exp, views_E)} if advantage.plugin.sees_turns else {}
    score_PG = _by_group(exp, exp.score_S[exp.first_E].tolist())
    adv_PG = advantage.plugin.entry(advantage.config, score_PG, _by_group(exp, values_E), **more)
    flat: list[float] = []
    valued: list[bool] = []
    adv_E = [adv for adv_G in adv_PG for adv in adv_G]
    for found, values, views in zip(adv_E, values_E, views_E, strict=True):
        if len(found) == len(values):
            flat += found
            valued += [True] * len(values)
        else:
            per_turn = _per_turn(found, views, advantage)
            flat += [
                adv for adv, turn in zip(per_turn, views, strict=True) for _ in range(turn.tokens)
            ]
            valued += [place == 0 for turn in views for place in range(turn.tokens)]
    adv_T, valued_T = torch.zeros_like(value_T), torch.zeros_like(exp.sampled_T)
    adv_T[exp.sampled_T] = torch.tensor(flat, dtype=torch.float64)
    valued_T[exp.sampled_T] = torch.tensor(valued, dtype=torch.bool)
    shown_T = _whiten_trained(exp, adv_T, world) if critic.settings.whiten else adv_T
    return replace(
        exp, advantage_T=shown_T, value_T=value_T, return_T=adv_T + value_T, valued_T=valued_T
    )


def _whiten_trained(exp: Experience, adv_T: Tensor, world: World) -> Tensor:
    """Whitens over the tokens that have a loss; the others stay as they are."""
    whitened_T = adv_T.clone()
    whitened_T[exp.loss_mask_T] = whiten(adv_T[exp.loss_mask_T], world)
    return whitened_T


def _by_group(exp: Experience, values_E: Iterable[V]) -> list[list[V]]:
    """One value per episode as a list per group."""
    left = iter(values_E)
    sizes_P = torch.bincount(exp.group_S[exp.first_E]).tolist()
    return [[next(left) for _ in range(size)] for size in sizes_P]
