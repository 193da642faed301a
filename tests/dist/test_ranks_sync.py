"""What a push sends from two ranks: every weight whole, as the engine is to have it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support import jobs
from support.models import tiny_model, world
from support.ranks import Ranks


@pytest.mark.parametrize(
    "shapes",
    [
        [(4, 3)],
        [(5, 3)],
        [(1, 4)],
        [(4, 3), (5,), (1, 2), (3, 2, 2)],
    ],
)
def test_rows_of_two_ranks_are_the_whole(two: Ranks, shapes: list[tuple[int, ...]]) -> None:
    with world() as here:
        expected = jobs.gathered(here, shapes)
    for found in two.run(jobs.gathered, shapes=shapes):
        assert [tensor.tolist() for tensor in found] == [tensor.tolist() for tensor in expected]


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_moe"])
@pytest.mark.parametrize("rollout", ["float32", "bfloat16"])
def test_two_ranks_send_what_one_sends(two: Ranks, tmp_path: Path, kind: str, rollout: str) -> None:
    model = tiny_model(tmp_path, kind)
    with world() as here:
        expected = jobs.streamed(here, model, rollout)
    for found in two.run(jobs.streamed, model=model, rollout=rollout):
        assert list(found) == list(expected)
        for name, weight in expected.items():
            assert weight.dtype == getattr(torch, rollout)
            assert torch.equal(found[name], weight), name
