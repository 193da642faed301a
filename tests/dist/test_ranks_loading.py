"""A rank reads and holds the rows of its shards, and no other weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from drpo_cli.dist import World, full
from drpo_cli.settings import CriticSettings, ReferenceSettings
from support.allocated import Allocated
from support.models import KINDS, tiny_model
from support.ranks import Ranks
from support.training import open_policy, open_trainer

ODD = {"intermediate_size": 97}
"""Rows that two ranks do not share evenly."""
OWN: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 5, "moe_intermediate_size": 33, "num_hidden_layers": 5},
    "glm4_moe": {"n_routed_experts": 5, "moe_intermediate_size": 33, "num_hidden_layers": 5},
    "phi3": {},  # it halves the rows of its gate and up matrix
}


class Loaded(NamedTuple):
    """What a rank has after loading: bytes at the peak and at the end, its shards, all weights.

    FSDP gives every rank equally much memory for a tensor whose rows it does not share evenly.
    """

    peak: int
    held: int
    shards: int
    weights: dict[str, Tensor]
    buffers: dict[str, Tensor]


def load(here: World, model: Path) -> Loaded:
    with Allocated() as allocated:
        policy = open_policy(model, here)
    return Loaded(
        allocated.peak,
        allocated.now,
        sum(4 * -(-len(w) // here.size) * w.shape[1:].numel() for w in policy.parameters()),
        {name.removeprefix("lm."): full(one) for name, one in policy.named_parameters()},
        {name.removeprefix("lm."): one for name, one in policy.named_buffers()},
    )


def load_all(here: World, model: Path) -> int:
    """The peak of policy, reference and critic in bytes."""
    with Allocated() as allocated:
        open_trainer(model, here, reference=ReferenceSettings(), critic=CriticSettings())
    return int(allocated.peak)


@pytest.mark.parametrize("kind", KINDS)
def test_each_rank_has_its_rows_of_what_transformers_loads(
    two: Ranks, tmp_path: Path, kind: str
) -> None:
    model = tiny_model(tmp_path, kind, **OWN.get(kind, ODD))
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    largest = max(one.nbytes for one in plain.parameters())
    whole = sum(one.nbytes for one in plain.parameters())
    for rank in two.run(load, model=model):
        expected = dict(plain.named_parameters())
        assert rank.weights.keys() == expected.keys()
        for name, weight in rank.weights.items():
            assert torch.equal(weight, expected[name]), name
        buffers = dict(plain.named_buffers())
        assert rank.buffers.keys() == buffers.keys()
        for name, buffer in rank.buffers.items():
            assert torch.equal(buffer, buffers[name]) and buffer.dtype == buffers[name].dtype
        assert rank.held < rank.shards + 2**14  # buffers and small change
        assert rank.peak < rank.shards + 2 * largest + 2**14  # experts, and their stack
        assert rank.peak < whole


def test_reference_and_critic_are_not_whole_either(two: Ranks, tmp_path: Path) -> None:
    model = tiny_model(tmp_path, "llama", num_hidden_layers=4)
    whole = sum(one.nbytes for one in AutoModelForCausalLM.from_pretrained(model).parameters())
    for peak in two.run(load_all, model=model):
        assert whole < peak < 3 * whole / 2 + whole / 10
