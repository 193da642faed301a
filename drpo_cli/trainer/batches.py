"""Samples through a model in packed micro-batches, in step with all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.trainer.model import reshard
from drpo_cli.trainer.pack import Sample, bins, bundles, pack, packed_length


def microbatches(
    samples: Sequence[Sample], budget: int, world: World, token_cost: float
) -> list[list[int]]:
    """Indices of the samples of each pass, at most `budget` tokens each.

    `token_cost` is the model's own. Every rank gets the same number of passes, as FSDP's
    collectives require. Collective.
    """
    bundled = bundles(samples, budget, token_cost)
    lengths = [packed_length([samples[i] for i in bundle]) for bundle in bundled]
    needed = int(world.max([len(bins(lengths, budget))])[0])
    parts = bins(lengths, budget, at_least=max(1, needed))
    return [[i for at in part for i in bundled[at]] for part in parts]


@torch.no_grad()
def replay(model: Any, samples: Sequence[Sample], budget: int, world: World) -> list[Tensor]:
    """A sharded model's output for each sample's response tokens, on the CPU. Collective.

    The model maps a packed micro-batch to one value [R] a response token, or to several such
    columns, of which the first counts.
    """
    by_sample: dict[int, Tensor] = {}
    for part in microbatches(samples, budget, world, model.token_cost):
        chosen = [samples[i] for i in part]
        found = model(pack(chosen, world.device, token_cost=model.token_cost))
        value_R = (found[0] if isinstance(found, tuple) else found).cpu()
        sizes = [len(samples[i].response_ids) for i in part]
        by_sample.update(zip(part, value_R.split(sizes) if part else (), strict=True))
    reshard(model)
    return [by_sample[i] for i in range(len(samples))]
