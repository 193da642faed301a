"""Moves rows between ranks, so that every rank has about the same work in every update.

Ranks wait for each other in every pass. Where one has sampled longer responses than the others, it
needs more passes, and the others would run empty ones. What a row costs is in `sharing`: its tokens
and its attention. Which update a row belongs to does not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.trainer.batches import replay
from drpo_cli.trainer.pack import bundles
from drpo_cli.trainer.sharing import Costs


@dataclass(frozen=True)
class Part:
    """Rows of one update that share their prompt, or a single row; it moves as a whole."""

    rows: tuple[int, ...]
    update: int
    cost: float


def balance(exp: Experience, budget: int, costs: Costs, world: World) -> Experience:
    """Spreads the rows over the ranks. With one rank, nothing changes.

    Consumes: this rank's rows, with the update of each; the columns are the same on every rank.
    Waits for: the costs of all ranks' rows, then the rows that other ranks send here.
    Produces: the rows that this rank trains on. Rows without a loss stay where they are. Rows of
    one episode may part: what `trainer.reduction` needs of the others is in `counted_S`.
    """
    if world.size == 1:
        return exp
    rows_R = _spread(exp, budget, costs, world)
    return Experience.join(world.exchange([exp.take(rows) for rows in rows_R]))


def replay_evenly(model: Any, exp: Experience, budget: int, world: World) -> Tensor:
    """`batches.replay` with the rows spread over the ranks, and the values sent back.

    Consumes: this rank's rows, which stay as they are.
    Waits for: the rows that other ranks send here, then the values of its own.
    Produces: the model's output at every sampled token, [T], float32, on the CPU; 0 elsewhere.
    """
    if world.size == 1:
        return replay(model, exp, budget, world)
    rows_R = _spread(exp.unmasked(), budget, model.costs, world)
    parts_R = world.exchange([exp.take(rows) for rows in rows_R])
    value_T = replay(model, Experience.join(parts_R), budget, world)
    sizes = [len(part.token_T) for part in parts_R]
    # copies: a part would be sent with the whole that it is a view of
    returned_R = world.exchange([own_T.clone() for own_T in value_T.split(sizes)])
    place_S = exp.split(torch.arange(len(exp.token_T)))
    found_T = torch.empty(len(exp.token_T))
    for rows, own_T in zip(rows_R, returned_R, strict=True):
        for row, row_T in zip(rows, exp.take(rows).split(own_T), strict=True):
            found_T[place_S[row]] = row_T
    return found_T


def _spread(exp: Experience, budget: int, costs: Costs, world: World) -> list[list[int]]:
    """This rank's rows that go to each rank. Collective."""
    parts = list(_parts(exp, budget, costs))
    shares = _fair_shares(parts, world)
    parts = [half for part in parts for half in _halves(part, exp, costs, shares[part.update])]
    everyone = world.gather_objects([(part.update, part.cost) for part in parts])
    target_S = [world.rank] * len(exp)
    for part, rank in zip(parts, assign(everyone)[world.rank], strict=True):
        for row in part.rows:
            target_S[row] = rank
    return [[row for row, to in enumerate(target_S) if to == rank] for rank in range(world.size)]


def assign(costs_R: Sequence[Sequence[tuple[int, float]]]) -> list[list[int]]:
    """The rank that gets each part, given the update and the cost of every rank's parts.

    Greedy, from the most expensive part on: a part stays at home while its rank has no more than
    its share of the update, else the rank with the least work gets it.
    """
    ranks, found = len(costs_R), [[rank] * len(own) for rank, own in enumerate(costs_R)]
    everything = [
        (update, -cost, home, place)
        for home, own in enumerate(costs_R)
        for place, (update, cost) in enumerate(own)
    ]
    loads: dict[int, list[float]] = {}
    totals: dict[int, float] = {}
    for update, negative, _, _ in everything:
        totals[update] = totals.get(update, 0.0) - negative
    for update, negative, home, place in sorted(everything):
        load = loads.setdefault(update, [0.0] * ranks)
        fits = load[home] - negative <= totals[update] / ranks
        rank = home if fits else min(range(ranks), key=lambda r: (load[r], r != home))
        load[rank] -= negative
        found[home][place] = rank
    return found


def _parts(exp: Experience, budget: int, costs: Costs) -> Iterator[Part]:
    has_loss_S, update_S = (exp.loss_tokens_S > 0).tolist(), exp.update_S.tolist()
    for update in sorted(set(update_S)):
        own = [row for row, of in enumerate(update_S) if of == update and has_loss_S[row]]
        for bundle in bundles(exp.take(own), budget, costs):
            yield _part(exp, [own[i] for i in bundle], update, costs)


def _part(exp: Experience, rows: Sequence[int], update: int, costs: Costs) -> Part:
    prompt = len(exp.prompt_ids_S[rows[0]])
    cost = costs.of(prompt, [int(exp.lengths_S[row]) - 1 for row in rows])
    return Part(tuple(rows), update, cost)


def _fair_shares(parts: Sequence[Part], world: World) -> dict[int, float]:
    """An equal share of each update's cost. Collective."""
    own: dict[int, float] = {}
    for part in parts:
        own[part.update] = own.get(part.update, 0.0) + part.cost
    everyone = world.gather_objects(own)
    updates = {update for costs in everyone for update in costs}
    return {u: sum(own.get(u, 0.0) for own in everyone) / len(everyone) for u in updates}


def _halves(part: Part, exp: Experience, costs: Costs, share: float) -> Iterator[Part]:
    """The part, or pieces of it that cost no more than an equal share, if it has several rows."""
    if part.cost <= share or len(part.rows) == 1:
        yield part
        return
    for rows in (part.rows[::2], part.rows[1::2]):
        yield from _halves(_part(exp, rows, part.update, costs), exp, costs, share)
