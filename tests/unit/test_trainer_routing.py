"""The trainer sends tokens to the experts that the engine chose, and what that changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.errors import UserError
from drpo_cli.experience import Experience
from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, sample_groups
from drpo_cli.settings import ModelSettings
from drpo_cli.step.checkpoint import Checkpoints
from drpo_cli.step.proof import Proof
from drpo_cli.step.sync import WeightSync
from drpo_cli.trainer.trainer import Trainer
from drpo_cli.types import Group
from support.models import tiny_model, tokenizer, world
from support.proofs import SAMPLING, LosingEngine, prompts
from support.training import DType, caught_gradients, furthest, moments, open_trainer, weights

ROUTER = "model.layers.1.mlp.gate.weight"


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as joined:
        yield joined


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("mixture"), "qwen3_moe")


def opened(
    folder: Path, here: World, dtype: DType = "float32", lost: str = "", **train: Any
) -> tuple[Trainer, LosingEngine, WeightSync]:
    """A trainer that replays routers, and an engine to which `lost` does not arrive."""
    trainer = open_trainer(folder, here, dtype=dtype, **{"router_replay": True, **train})
    model = ModelSettings(path=str(folder), dtype=dtype)
    engine = LosingEngine(transformers.Config(), EngineContext(model, 64, 1, experts=True))
    engine.lost = lost
    return trainer, engine, WeightSync(trainer, engine, Precision(dtype, dtype))


def sampled(engine: LosingEngine, samples: int = 4) -> list[Group]:
    return sample_groups(engine, prompts(), replace(SAMPLING, samples=samples))


def learnt(trainer: Trainer, exp: Experience) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradients and metrics of a step in which tokens pull either way."""
    pull_T = torch.linspace(-1, 1, len(exp.token_T)).double()
    with caught_gradients(trainer) as gradients:
        metrics = trainer.step(replace(exp, advantage_T=pull_T))
    return gradients[0], metrics


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_engine_tells_the_experts_of_every_token_but_the_last(
    layout: str, folder: Path, here: World
) -> None:
    trainer, engine, sync = opened(folder, here, layout=layout)
    assert trainer.policy.costs.padded == (layout == "padded")
    sync.push(0)
    exp = Experience.of(sampled(engine))
    assert exp.experts_S is not None
    for prompt, length, experts in zip(
        exp.prompt_ids_S, exp.lengths_S.tolist(), exp.experts_S, strict=True
    ):
        assert experts.shape == (len(prompt) + length - 1, 2, 2) and experts.dtype == torch.uint8
    # one model in one dtype chooses alike, packed or not, and prompts are the same in a group
    logp_T = trainer.replay(exp.without_experts())
    assert torch.allclose(trainer.replay(exp), logp_T, atol=1e-5)
    assert (logp_T - exp.logp_mu_T).abs().max() < 1e-5
    assert trainer.routing is not None and trainer.routing.metrics(here) == {
        "router_disagreement": 0.0
    }
    moved = tuple(experts.roll(1, 0) for experts in exp.experts_S)
    shifted_T = trainer.replay(replace(exp, experts_S=moved))
    assert (shifted_T - logp_T).abs().mean() > 0.05
    assert trainer.routing.metrics(here)["router_disagreement"] > 0.2


@pytest.mark.parametrize("keep", [None, "inputs", "products"])
def test_replay_of_the_same_choice_gives_the_same_gradients(
    keep: str | None, folder: Path, here: World
) -> None:
    train: dict[str, Any] = {"gradient_checkpointing": keep is not None, "epsilon": 1e-3}
    if keep is not None:
        train["checkpointing_keeps"] = keep
    train["tokens_per_microbatch"] = 64
    trainer, engine, sync = opened(folder, here, **train)
    sync.push(0)
    exp = Experience.of(sampled(engine))
    before = weights(trainer.policy)
    with_replay, metrics = learnt(trainer, exp)
    plain, _ = learnt(open_trainer(folder, here, **train), exp.without_experts())
    assert with_replay[ROUTER].abs().max() > 1e-4
    assert furthest(with_replay, plain) < 1e-6
    assert metrics["router_disagreement"] == 0.0
    assert furthest(before, weights(trainer.policy)) > 1e-5


def test_replay_closes_the_gap_that_other_experts_make(tmp_path: Path, here: World) -> None:
    folder = tiny_model(tmp_path, "glm4_moe", first_k_dense_replace=0, num_hidden_layers=4)
    trainer, engine, sync = opened(folder, here, "bfloat16")
    sync.push(0)
    exp = Experience.of(sampled(engine, samples=32))

    def gap(exp: Experience) -> tuple[float, float]:
        difference_T = (trainer.replay(exp) - exp.logp_mu_T).abs()
        return float(difference_T.mean()), float(difference_T.max())

    (free, largest_free), (replayed, largest) = gap(exp.without_experts()), gap(exp)
    assert trainer.routing is not None
    assert 0 < trainer.routing.metrics(here)["router_disagreement"] < 0.1
    assert replayed < free and largest < largest_free / 3


def test_no_load_balancing_loss_is_added(tmp_path: Path, folder: Path, here: World) -> None:
    """Not even for a model whose config.json asks for one, with a coefficient that would show."""
    asks = tiny_model(tmp_path, "qwen3_moe", output_router_logits=True, router_aux_loss_coef=100.0)
    exp = Experience.of(sampled(opened(folder, here)[1]))
    expected, _ = learnt(open_trainer(folder, here), exp)
    found, _ = learnt(open_trainer(asks, here), exp)
    assert furthest(found, expected) == 0.0 and expected[ROUTER].abs().max() > 1e-4


def test_frozen_routers_never_change(folder: Path, here: World) -> None:
    trainer, engine, sync = opened(folder, here, freeze_routers=True)
    sync.push(0)
    before = weights(trainer.policy)
    gradients, _ = learnt(trainer, Experience.of(sampled(engine)))
    after = weights(trainer.policy)
    frozen = {name for name in before if ".mlp.gate." in name}
    assert len(frozen) == 2 and not frozen & gradients.keys()
    assert {name for name in before if torch.equal(before[name], after[name])} == frozen
    held = trainer.optimizer.state
    assert all((w in held) == (name not in frozen) for name, w in trainer.policy.named_weights())
    assert moments(trainer).keys().isdisjoint(frozen)


@pytest.mark.parametrize(
    ("dtype", "frozen"), [("float32", False), ("float32", True), ("bfloat16", False)]
)
def test_a_router_that_the_engine_has_not_got_is_found_with_replay(
    dtype: DType, frozen: bool, folder: Path, here: World
) -> None:
    """Replay takes the noise of other experts out of gradients, so that bfloat16 shows it too."""
    _, _, sync = opened(folder, here, dtype, lost=ROUTER, freeze_routers=frozen)
    with pytest.raises(UserError, match="did not reach the engine") as found:
        Proof(sync).prove(0, prompts(), SAMPLING)
    assert dtype == "float32" or f"; {ROUTER} did not reach" in str(found.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sound_pair_passes_the_proof_with_replay(dtype: DType, folder: Path, here: World) -> None:
    Proof(opened(folder, here, dtype)[2]).prove(0, prompts(), SAMPLING)


@pytest.mark.parametrize(
    ("key", "value"),
    [("router_replay", True), ("router_dtype", "float32"), ("freeze_routers", True)],
)
def test_a_model_without_experts_is_refused(
    key: str, value: Any, tmp_path: Path, here: World
) -> None:
    with pytest.raises(UserError, match=rf"train\.{key}: the model has no routers"):
        open_trainer(tiny_model(tmp_path), here, **{key: value})


def test_router_scores_in_float32_learn(folder: Path, here: World) -> None:
    exact, engine, sync = opened(folder, here)
    sync.push(0)
    exp = Experience.of(sampled(engine))
    expected, _ = learnt(exact, exp)
    train: dict[str, Any] = {"router_dtype": "float32", "gradient_checkpointing": True}
    same, _ = learnt(opened(folder, here, **train)[0], exp)
    assert furthest(same, expected) < 1e-6  # nothing else changes
    rounded, _ = learnt(opened(folder, here, "bfloat16", **train)[0], exp)
    assert furthest(rounded, expected) < 0.05 * max(float(g.abs().max()) for g in expected.values())


def test_a_run_with_frozen_routers_continues_bit_for_bit(
    tmp_path: Path, folder: Path, here: World
) -> None:
    exp = Experience.of(sampled(opened(folder, here)[1]))
    exp = replace(exp, advantage_T=torch.linspace(-1, 1, len(exp.token_T)).double())
    train: dict[str, Any] = {"router_replay": True, "freeze_routers": True}
    whole = open_trainer(folder, here, **train)
    whole.step(exp)
    store = Checkpoints(tmp_path, 3, here)
    saved = store.save(1, whole, tokenizer(), {"dtype": "float32"})
    again = open_trainer(folder, here, **train)
    store.load(saved, again)
    for trainer in (whole, again):
        trainer.step(exp)
    assert furthest(weights(whole.policy), weights(again.policy)) == 0.0
    assert furthest(moments(whole), moments(again)) == 0.0
    with pytest.raises(UserError, match=r"set train\.freeze_routers to true"):
        store.load(saved, open_trainer(folder, here))
