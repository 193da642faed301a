"""Rounded weights: how far rounding goes, which weights it leaves alone, and the sync proof."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.precision import Precision, round_weight
from drpo_cli.step.proof import Look
from support.models import experience, samples, tiny_model, world
from support.proofs import SAMPLING, opened, prompts, sampled
from support.training import furthest, open_trainer, weights

NAME = "model.layers.0.mlp.down_proj.weight"
ROUNDINGS = ("int8", "fp8")
each = pytest.mark.parametrize("kind", ROUNDINGS)


def matrix(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.linspace(-4, 2, shape[-2])[:, None]  # channels of different sizes
    return torch.randn(shape, generator=generator) * scale


@pytest.mark.parametrize("shape", [(64, 33), (3, 8, 33)])
def test_int8_is_within_half_a_step_of_each_channel(shape: tuple[int, ...]) -> None:
    weight = matrix(*shape)
    found, step = round_weight(NAME, weight, "int8"), weight.abs().amax(-1, keepdim=True) / 127
    assert found.shape == weight.shape and found.dtype == weight.dtype
    assert bool(((found - weight).abs() <= step * 0.5001).all())
    levels = found / step
    assert bool(((levels - levels.round()).abs() < 1e-3).all())
    assert len(torch.unique(levels.round())) <= 255
    assert float((found - weight).abs().max()) > 0


@pytest.mark.parametrize("shape", [(64, 33), (3, 8, 33)])
def test_fp8_is_within_a_sixteenth_of_each_weight(shape: tuple[int, ...]) -> None:
    """E4M3 has 3 bits of mantissa, and subnormals of 2⁻⁹ below 2⁻⁶; 448 is its largest."""
    weight = matrix(*shape)
    found, scale = round_weight(NAME, weight, "fp8"), weight.abs().amax(-1, keepdim=True) / 448
    assert found.shape == weight.shape and found.dtype == weight.dtype
    bound = torch.maximum(weight.abs() / 16, scale * 2.0**-10)
    assert bool(((found - weight).abs() <= bound * 1.0001).all())
    assert float(((found - weight).abs() / weight.abs()).max()) > 0.03
    assert bool(found.isfinite().all())


@each
def test_the_largest_weight_of_a_channel_stays(kind: str) -> None:
    weight = matrix(16, 9)
    place = weight.abs().argmax(-1, keepdim=True)
    found = round_weight(NAME, weight, kind).gather(-1, place)
    torch.testing.assert_close(found, weight.gather(-1, place), rtol=1e-6, atol=0)


@each
def test_channels_are_rounded_independently(kind: str) -> None:
    """Each row has its own scale: in [out, in], and for each expert in [experts, out, in]."""
    weight = matrix(4, 6, 10)
    together = round_weight(NAME, weight, kind)
    for expert, matrix_of_it in enumerate(weight):
        for row, channel in enumerate(matrix_of_it):
            assert torch.equal(together[expert, row], round_weight(NAME, channel[None], kind)[0])


@each
def test_zeros_stay_zeros(kind: str) -> None:
    weight = matrix(4, 8)
    weight[1] = 0.0
    found = round_weight(NAME, weight, kind)
    assert bool(found.isfinite().all()) and bool((found[1] == 0).all())
    assert bool((round_weight(NAME, torch.zeros(2, 3), kind) == 0).all())


@each
def test_rounding_again_changes_nothing(kind: str) -> None:
    once = round_weight(NAME, matrix(64, 33), kind)
    torch.testing.assert_close(round_weight(NAME, once, kind), once, rtol=1e-6, atol=0)


@each
def test_only_the_matrices_of_layers_are_rounded(tmp_path: Path, kind: str) -> None:
    for architecture in ("qwen3_moe", "llama"):
        folder = tiny_model(tmp_path / architecture, architecture)
        with world() as here:
            named = weights(open_trainer(folder, here).policy)
        same = {n for n, w in named.items() if torch.equal(round_weight(n, w, kind), w)}
        whole = {n for n, w in named.items() if "proj" not in n}
        assert same == whole
        assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} < whole


def test_the_engine_gets_its_own_dtype() -> None:
    weight = matrix(4, 8)
    assert Precision("float32", "float32").convert(NAME, weight) is weight
    half = Precision("float32", "bfloat16").convert(NAME, weight)
    assert half.dtype == torch.bfloat16 and torch.equal(half, weight.bfloat16())
    both = Precision("float32", "bfloat16", "int8").convert(NAME, weight)
    assert torch.equal(both, round_weight(NAME, weight, "int8").bfloat16())


def test_the_gap_is_judged_by_the_coarser_dtype() -> None:
    assert Precision("float32", "float32").coarsest == "float32"
    assert Precision("bfloat16", "float32").coarsest == "bfloat16"
    assert Precision("float32", "bfloat16").coarsest == "bfloat16"
    assert Precision("float32", "float32", "int8").coarsest == "float32"  # rounding is left out


@each
@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_moe"])
def test_the_sync_is_proven_with_rounded_weights(
    tmp_path: Path, architecture: str, kind: str
) -> None:
    folder = tiny_model(tmp_path, architecture)
    with world() as here:
        proof = opened(folder, here, Precision("float32", "float32", kind))
        before = weights(proof.trainer.policy)
        proof.prove(0, prompts(), SAMPLING)
        assert furthest(before, weights(proof.trainer.policy)) == 0
        assert proof.floor < 1e-5  # against equally rounded weights
        proof.trainer.step(experience(samples([(4, 8)] * 4)))
        with pytest.raises(UserError, match="after sync 0 the engine samples from other weights"):
            proof.check(sampled(proof), "after sync 0")
        proof.sync.push(1)
        before = weights(proof.trainer.policy)
        assert proof.check(sampled(proof), "after sync 1") > 1e-3  # includes the rounding
        assert furthest(before, weights(proof.trainer.policy)) == 0


@each
def test_a_lost_weight_is_not_rounded_and_shows(tmp_path: Path, kind: str) -> None:
    folder = tiny_model(tmp_path)
    with world() as here:
        lost = "model.layers.1.mlp.down_proj.weight"
        proof = opened(folder, here, Precision("float32", "float32", kind), lost)
        with pytest.raises(UserError, match="before any training the engine and the trainer"):
            proof.prove(0, prompts(), SAMPLING)


def test_an_engine_with_other_rounding_is_caught(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    plain, int8 = Precision("float32", "float32"), Precision("float32", "float32", "int8")
    with world() as here:
        for asked, done in ((int8, plain), (plain, int8)):
            proof = opened(folder, here, asked)
            proof.prove(0, prompts(), SAMPLING)
            proof.sync.precision = done
            proof.sync.push(1)
            proof.sync.precision = asked
            with pytest.raises(UserError, match="after sync 1"):
                proof.check(sampled(proof), "after sync 1")


def test_a_sync_error_advises_no_engine_that_is_in_use(tmp_path: Path) -> None:
    with world() as here:
        proof = opened(tiny_model(tmp_path), here, Precision("float32", "float32"))
        with pytest.raises(UserError) as caught:
            proof._set_floor(Look(gap=1.0))
        assert "already disagree" in str(caught.value)
        assert "transformers" not in str(caught.value)
