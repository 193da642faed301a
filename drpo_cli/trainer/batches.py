"""Cuts an update into micro-batches, the same number on every rank, and replays a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.settings import TrainSettings
from drpo_cli.trainer.loading import reshard, sync_gradients
from drpo_cli.trainer.pack import bins, bundles, pack, packed_length
from drpo_cli.trainer.sharing import Costs


def microbatches(exp: Experience, budget: int, world: World, costs: Costs) -> list[list[int]]:
    """The rows of each forward pass, at most `budget` tokens each.

    `costs` are the model's own. Every rank gets the same number of
    passes, as FSDP's collectives require. Collective.
    """
    bundled = bundles(exp, budget, costs)
    responses = exp.lengths_S.tolist()
    lengths = [
        packed_length(len(exp.prompt_ids_S[bundle[0]]), [responses[row] for row in bundle])
        for bundle in bundled
    ]
    needed = int(world.max([len(bins(lengths, budget, padded=costs.padded))])[0])
    parts = bins(lengths, budget, max(1, needed), costs.padded)
    return [[row for at in part for row in bundled[at]] for part in parts]


@torch.no_grad()
def replay(model: Any, exp: Experience, budget: int, world: World) -> Tensor:
    """A sharded model's output at every sampled token, masked or not: [T], float32, on the CPU.

    It is 0 at tokens that the policy did not sample: they are read, and nothing is asked of them.
    The model maps a packed micro-batch to one value per token, or to several such columns, of which
    the first counts. Collective.
    """
    everything, kept = _sampled_rows(exp)
    found_T = torch.zeros(len(exp.token_T))
    place_S = exp.split(torch.arange(len(exp.token_T)))
    for rows in microbatches(everything, budget, world, model.costs):
        part = everything.take(rows)
        output = model(pack(part, world.device, costs=model.costs))
        value_T = (output[0] if isinstance(output, tuple) else output).cpu()
        if rows:
            place_T = torch.cat([place_S[kept[row]] for row in rows])
            found_T[place_T[part.sampled_T]] = value_T
    reshard(model)
    return found_T


def add_gradient(
    model: Any, exp: Experience, weight_T: Tensor, settings: TrainSettings, world: World
) -> None:
    """Adds the gradient of Σ weight_T · (the model's output), over all ranks' tokens, to `.grad`.

    The output is that of `replay`. FSDP divides the sum by the number of ranks. Collective.
    """
    weighted, _ = _sampled_rows(replace(exp, advantage_T=weight_T.double()))
    budget = settings.tokens_per_microbatch
    parts = microbatches(weighted, budget, world, model.costs)
    for i, rows in enumerate(parts):
        sync_gradients(model, settings, last=i == len(parts) - 1)
        packed = pack(weighted.take(rows), world.device, costs=model.costs)
        output = model(packed)
        value_T = output[0] if isinstance(output, tuple) else output
        torch.autograd.backward((value_T * packed.adv_T).sum())


def _sampled_rows(exp: Experience) -> tuple[Experience, list[int]]:
    """The rows with something sampled in them, a loss on all of that; and which rows they are."""
    kept: list[int] = torch.where(exp.count(exp.sampled_T) > 0)[0].tolist()
    return (exp if len(kept) == len(exp) else exp.take(kept)).unmasked(), kept
