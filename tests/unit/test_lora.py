"""LoRA in the trainer: gradients, frozen base, reference, merged weights, and bad targets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from drpo_cli.dist import World, full, local
from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.settings import LoraSettings, ReferenceSettings
from drpo_cli.step.sync import trainer_weights
from drpo_cli.trainer.batches import add_gradient, replay
from drpo_cli.trainer.model import Policy
from support.models import experience, group, samples, tiny_model, world
from support.training import adapters, caught_gradients, moments, open_policy, open_trainer

LORA = LoraSettings(rank=4, alpha=6.0)
BATCH = [*samples([(3, 9), (6, 2)]), *group(5, [4, 7])]
KINDS = ("qwen3", "phi3", "qwen3_moe")


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as joined:
        yield joined


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: tiny_model(root / kind, kind) for kind in KINDS}


def grown(policy: Policy, seed: int = 0) -> Policy:
    """The policy with adapters that change what it computes: B starts at zero."""
    random = torch.Generator().manual_seed(seed)
    for _, weight in policy.named_adapters():
        shard = local(weight)
        shard.copy_(torch.randn(shard.shape, generator=random) * 0.05)
    return policy


def in_peft(folder: Path, settings: LoraSettings, policy: Policy) -> Any:
    """The policy as peft itself makes it, in float32."""
    assert policy.adapters is not None
    targets = policy.adapters.config["target_modules"]
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=int(settings.alpha),
        use_rslora=settings.rslora,
        target_modules=targets,
    )
    model = peft.get_peft_model(lm, config)
    found: Any = peft.set_peft_model_state_dict(model, adapters(policy))
    assert not found.unexpected_keys
    assert not [key for key in found.missing_keys if "lora" in key]
    return model


def base(policy: Policy) -> dict[str, Tensor]:
    return {name: full(weight).clone() for name, weight in policy.named_weights()}


def logps(model: Any) -> list[Tensor]:
    found = []
    for row in BATCH:
        ids = torch.tensor([row.prompt_ids + row.response_ids])
        logp_TV = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1].log_softmax(-1)
        found.append(logp_TV.gather(-1, torch.tensor(row.response_ids)[:, None])[:, 0])
    return found


@pytest.mark.parametrize(
    ("kind", "settings", "keep", "layout"),
    [
        ("qwen3", LORA, None, "packed"),
        ("qwen3", LORA, None, "padded"),
        ("qwen3", LORA.model_copy(update={"rslora": True}), "inputs", "packed"),
        (
            "phi3",
            LORA.model_copy(update={"target_modules": ("qkv_proj", "down_proj")}),
            None,
            "packed",
        ),
        ("qwen3_moe", LORA, "products", "packed"),
    ],
)
def test_log_probs_and_gradients_are_those_of_pefts_own_model(
    models: dict[str, Path],
    here: World,
    kind: str,
    settings: LoraSettings,
    keep: str | None,
    layout: str,
) -> None:
    policy = grown(open_policy(models[kind], here, lora=settings, keep=keep, layout=layout))
    assert policy.costs.padded == (layout == "padded")
    trainer = open_trainer(models[kind], here, lora=settings)
    exp = experience(BATCH)
    theirs = in_peft(models[kind], settings, policy)
    expected = torch.cat(logps(theirs))
    found = replay(policy, exp, 64, here)
    assert (found - expected).abs().max() < 1e-5
    weight_T = torch.linspace(-1, 1, len(expected))
    (expected * weight_T).sum().backward()
    add_gradient(policy, exp, weight_T, trainer.settings, here)
    ours = {name: full(w.grad) for name, w in policy.named_adapters() if w.grad is not None}
    named = {
        name.replace(".default", ""): w.grad
        for name, w in theirs.named_parameters()
        if w.grad is not None
    }
    assert ours.keys() == named.keys() and ours
    for name, gradient in ours.items():
        largest = max(1.0, float(named[name].abs().max()))
        assert (gradient - named[name]).abs().max() < 1e-5 * largest
    assert all(weight.grad is None for _, weight in policy.named_weights())


def test_only_adapters_are_trained_and_the_base_stays_in_its_dtype(
    models: dict[str, Path], here: World
) -> None:
    trainer = open_trainer(models["qwen3"], here, lora=LORA, dtype="bfloat16")
    policy = trainer.policy
    before, start = base(policy), adapters(policy)
    assert all(not value.any() for name, value in start.items() if "lora_B" in name)
    assert all(value.any() for name, value in start.items() if "lora_A" in name)
    with caught_gradients(trainer) as gradients:
        for _ in range(2):  # the gradient of A is zero until B moves
            trainer.step(experience(BATCH))
    assert gradients[0].keys() == start.keys()
    after = adapters(policy)
    assert all(not torch.equal(after[name], start[name]) for name in start)
    assert all(torch.equal(value, before[name]) for name, value in base(policy).items())
    assert {value.dtype for value in before.values()} == {torch.bfloat16}
    assert {value.dtype for value in [*after.values(), *moments(trainer).values()]} == {
        torch.float32
    }
    held = {id(weight) for weight in trainer.optimizer.state}
    assert held == {id(weight) for _, weight in policy.named_adapters()}


def test_a_sync_merges_what_peft_merges(models: dict[str, Path], here: World) -> None:
    for kind in KINDS:
        policy = grown(open_policy(models[kind], here, lora=LORA))
        merged = in_peft(models[kind], LORA, policy).merge_and_unload().state_dict()
        plain = Precision("float32", "float32")
        found = dict(trainer_weights(policy, plain, here))
        assert found.keys() <= merged.keys()
        assert max(float((found[name] - merged[name]).abs().max()) for name in found) < 1e-6
        base = dict(trainer_weights(policy, plain, here, merge=False))
        own = AutoModelForCausalLM.from_pretrained(models[kind], dtype=torch.float32).state_dict()
        assert all(torch.equal(value, own[name]) for name, value in base.items())


@pytest.mark.parametrize("keep", [None, "inputs"])
def test_the_reference_is_the_base_without_a_second_copy(
    models: dict[str, Path], here: World, keep: str | None
) -> None:
    folder = models["qwen3"]
    train: dict[str, Any] = {
        "gradient_checkpointing": keep is not None,
        "tokens_per_microbatch": 16,
    }
    kl: dict[str, Any] = {"kl": "k2", "coefficient": 0.5}
    lone = open_trainer(folder, here, lora=LORA, reference=ReferenceSettings(**kl), **train)
    two = open_trainer(
        folder, here, lora=LORA, reference=ReferenceSettings(path=str(folder), **kl), **train
    )
    assert lone.reference is not None and lone.reference.policy is lone.policy
    assert two.reference is not None and two.reference.policy is not two.policy
    logp_T = lone.replay(experience(BATCH))
    assert torch.equal(logp_T, lone.reference.replay(experience(BATCH), 16, here))
    for _ in range(3):
        one, other = (trainer.step(experience(BATCH)) for trainer in (lone, two))
        assert one == other
    assert not torch.equal(logp_T, lone.replay(experience(BATCH)))
    found = lone.reference.replay(experience(BATCH), 16, here)
    assert torch.equal(logp_T, found)
    assert furthest_of(adapters(lone.policy), adapters(two.policy)) == 0


def furthest_of(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def test_the_start_depends_on_the_seed_and_on_the_layer(
    models: dict[str, Path], here: World
) -> None:
    one, again, other = (
        adapters(open_policy(models["qwen3"], here, lora=LORA, seed=seed)) for seed in (1, 1, 2)
    )
    a = [name for name in one if "lora_A" in name]
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in a)
    assert len({float(one[name][0, 0]) for name in a}) == len(a)


def test_a_target_that_does_not_exist_is_refused_with_those_that_do(
    models: dict[str, Path], here: World
) -> None:
    wrong = LORA.model_copy(update={"target_modules": ("q_proj", "query")})
    with pytest.raises(UserError, match=r"no linear layer 'query' .* it has down_proj, gate_proj"):
        open_policy(models["qwen3"], here, lora=wrong)
