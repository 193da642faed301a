"""Training in FP8: which layers compute in it, what that changes, and what it must not change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drpo_cli.devices import describe
from drpo_cli.dist import World
from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.settings import LoraSettings, TrainSettings
from drpo_cli.trainer.batches import replay
from drpo_cli.trainer.float8 import check
from drpo_cli.trainer.model import Policy
from support.eight_bits import Float8Linear
from support.models import experience, group, samples, tiny_model, world
from support.proofs import SAMPLING, opened, prompts
from support.specs import SMALLEST, problem
from support.training import caught_gradients, open_policy, open_trainer

RECIPES = ("tensorwise", "rowwise")
BATCH = [*samples([(3, 9), (6, 2), (1, 5)]), *group(5, [4, 7])]
ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}
MLP = {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
each = pytest.mark.parametrize("recipe", RECIPES)


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as joined:
        yield joined


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def converted(policy: Policy) -> set[str]:
    modules = policy.layers[0].named_modules()
    return {name for name, module in modules if isinstance(module, Float8Linear)}


def test_the_linear_layers_of_decoder_layers_are_converted(
    folder: Path, here: World, tmp_path: Path
) -> None:
    plain = open_policy(folder, here, dtype="bfloat16")
    policy = open_policy(folder, here, dtype="bfloat16", float8="rowwise")
    assert converted(policy) == ATTENTION | MLP and not converted(plain)
    every = [name for name, module in policy.named_modules() if isinstance(module, Float8Linear)]
    assert len(every) == 2 * 7  # and not the head
    assert [n for n, _ in policy.named_weights()] == [n for n, _ in plain.named_weights()]
    assert policy.state_dict().keys() == plain.state_dict().keys()  # so checkpoints are the same
    moe = open_policy(tiny_model(tmp_path, "qwen3_moe"), here, dtype="bfloat16", float8="rowwise")
    assert converted(moe) == ATTENTION
    lora = LoraSettings(rank=16)
    adapted = open_policy(folder, here, dtype="bfloat16", lora=lora, float8="rowwise")
    assert converted(adapted) == {f"{name}.base_layer" for name in ATTENTION | MLP}


def log_probs(policy: Policy, here: World, batch: Any) -> Tensor:
    return replay(policy, experience(batch), 1000, here)


def gradients(folder: Path, here: World, **train: Any) -> dict[str, Tensor]:
    trainer = open_trainer(folder, here, dtype="bfloat16", max_gradient_norm=1e9, **train)
    with caught_gradients(trainer) as found:
        trainer.step(experience(BATCH))
    return found[0]


def angle(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The cosine of the angle between two gradients."""
    one_W, other_W = (torch.cat([g.flatten() for g in grads.values()]) for grads in (one, other))
    return float(torch.nn.functional.cosine_similarity(one_W, other_W, dim=0))


@each
def test_gradients_are_those_of_bfloat16_up_to_rounding(
    folder: Path, here: World, recipe: str
) -> None:
    plain, eight = gradients(folder, here), gradients(folder, here, float8=recipe)
    assert 0.97 < angle(plain, eight) < 0.99999
    assert all(gradient.abs().max() > 0 for gradient in eight.values())
    for kept in ("inputs", "products"):
        again = gradients(
            folder, here, float8=recipe, gradient_checkpointing=True, checkpointing_keeps=kept
        )
        assert all(torch.equal(again[name], gradient) for name, gradient in eight.items())


def test_a_token_does_not_depend_on_what_it_is_packed_with(folder: Path, here: World) -> None:
    alone, more = samples([(3, 9)]), samples([(3, 9), (40, 60)])
    apart: dict[str, float] = {}
    for recipe in RECIPES:
        policy = open_policy(folder, here, dtype="bfloat16", float8=recipe)
        with torch.no_grad():
            one_T, with_others_T = (log_probs(policy, here, rows)[:9] for rows in (alone, more))
        apart[recipe] = float((one_T - with_others_T).abs().max())
    assert apart["rowwise"] < 0.02 < apart["tensorwise"]


def test_the_sync_is_proven_with_the_limits_of_fp8(folder: Path, here: World) -> None:
    precision = Precision("bfloat16", "bfloat16", float8="rowwise")
    assert precision.coarsest == "fp8" and not precision.rounds
    proof = opened(folder, here, precision)
    proof.prove(0, prompts(), SAMPLING)
    assert 0.02 <= proof.floor < 0.2
    lost = opened(folder, here, precision, lost="model.layers.0.self_attn.o_proj.weight")
    with pytest.raises(UserError, match=r"layers\.0\.self_attn\.o_proj\.weight did not reach"):
        lost.prove(0, prompts(), SAMPLING)


def test_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = problem(tmp_path, SMALLEST + '[train]\nfloat8 = "rowwise"\n', "model.dtype=float32")
    assert "train.float8: is 'rowwise', with which the rest of training is in bfloat16" in told
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(UserError, match=r"capability 8\.9 .* this one has 8.0"):
        check("rowwise", "cuda")
    check("rowwise", "cpu")
    check(None, "cuda")
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(UserError, match=r"torchao does not import.*drpo\[float8\]"):
        check("rowwise", "cpu")


def test_it_is_shown_by_device() -> None:
    train = TrainSettings(float8="rowwise")
    assert "products in FP8, rowwise," in describe(train, "cuda", "bfloat16")
    assert "products in FP8, rowwise (slowly)" in describe(train, "cpu", "bfloat16")
    assert "FP8" not in describe(TrainSettings(), "cuda", "bfloat16")
