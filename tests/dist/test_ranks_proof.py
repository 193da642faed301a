"""The proof of a sync over two ranks: shards are disturbed apart, and tested together."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import jobs
from support.models import tiny_model, world
from support.ranks import Ranks


@pytest.mark.parametrize("rounding", [None, "int8"])
def test_two_ranks_prove_a_sound_sync_and_name_a_lost_tensor(
    two: Ranks, tmp_path: Path, rounding: str | None
) -> None:
    model, lost = tiny_model(tmp_path), "model.layers.1.self_attn.k_proj.weight"
    sound, other = two.run(jobs.prove, model=model, rounding=rounding)
    assert sound.refusal == other.refusal == ""
    assert sound.floor == other.floor < 1e-5
    assert sound.place != other.place and sound.copies == other.copies == 1
    assert max(sound.staleness.values()) < 4
    assert sound.staleness == other.staleness  # shards of both are in it
    if rounding is None:
        for found in two.run(jobs.prove, model=model, rounding=rounding, lost=lost):
            assert f"{lost} did not reach the engine" in found.refusal


def test_shards_in_fp8_have_whole_scales(two: Ranks, tmp_path: Path) -> None:
    """A scale is that of the gathered weight: log π is what one process has."""
    model = tiny_model(tmp_path)
    pytest.importorskip("support.eight_bits")
    with world() as here:
        alone_T = jobs.in_eight_bits(here, model, "rowwise")
    plain_T, _ = two.run(jobs.in_eight_bits, model=model, recipe=None)
    for found_T in two.run(jobs.in_eight_bits, model=model, recipe="rowwise"):
        assert (
            float((found_T - alone_T).abs().max()) < 0.02 < float((found_T - plain_T).abs().max())
        )
