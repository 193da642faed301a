"""The proof of a sync: sound pairs pass whatever their text, single lost tensors are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import sample_groups
from drpo_cli.step.proof import LIMITS, STALE_CHANCE, STOP, SUSPECT, Look, Stalest
from drpo_cli.types import Group
from support.models import tiny_model, world
from support.proofs import SAMPLING, LosingEngine, opened, prompts, sampled
from support.training import furthest, weights

BF16, F32 = Precision("bfloat16", "bfloat16"), Precision("float32", "float32")
LAYER = "model.layers.1."


def set_head(folder: Path, change: Any) -> Path:
    """Changes the head of a model folder."""
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = change(tensors["lm_head.weight"])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def cancelling(head_VD: Tensor) -> Tensor:
    """A head whose large weights cancel out: token 20 is certain until they are disturbed."""
    width = head_VD.shape[1]
    head_VD = 0.01 * head_VD
    head_VD += 15.0 * torch.tensor([1.0, -1.0]).repeat(width // 2)
    head_VD[20] += 12.0 / width
    return head_VD


@pytest.fixture
def certain(tmp_path: Path) -> Path:
    """A model with confident text, and open text once its weights are disturbed."""
    folder = tiny_model(tmp_path / "certain", "llama")
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = 4.0 + 12.0 * embedding  # final hidden states are near 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return set_head(folder, cancelling)


class OtherKernels(LosingEngine):
    """Rounds hidden states of its own, as kernels do that are not the trainer's."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.model.model.norm.register_forward_hook(
            lambda module, inputs, out: out * (1 + 2**-8 * torch.randn_like(out))
        )


def test_a_confident_model_with_open_disturbed_text_passes(certain: Path) -> None:
    """With a floor of the model's own text as the only measure, this healthy pair was refused."""
    with world() as here:
        proof = opened(certain, here, BF16, kind=OtherKernels)
        before = weights(proof.trainer.policy)
        refused = 0
        for seed in range(1, 5):
            proof.looks.clear()
            proof.prove(0, prompts(), replace(SAMPLING, seed=seed))
            rehearsed, real = proof.looks[:2]
            refused += rehearsed.gap > 3 * max(real.gap, 5e-3)  # what was the limit
        assert refused >= 2
        assert furthest(before, weights(proof.trainer.policy)) == 0
        assert all(weight.grad is None for weight in proof.trainer.policy.parameters())


@pytest.mark.parametrize("precision", [BF16, F32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("qwen3", "model.embed_tokens.weight"),
        ("qwen3", LAYER + "self_attn.q_proj.weight"),
        ("qwen3", LAYER + "input_layernorm.weight"),
        ("qwen2", LAYER + "self_attn.v_proj.bias"),  # zeros
        ("gemma3", "model.norm.weight"),  # zeros
        ("gemma3", LAYER + "self_attn.k_proj.weight"),  # its gap is within rounding
        ("qwen3_moe", LAYER + "mlp.experts.down_proj"),
        ("llama", "lm_head.weight"),
    ],
)
def test_a_lost_tensor_is_named(tmp_path: Path, precision: Precision, kind: str, lost: str) -> None:
    folder = tiny_model(tmp_path, kind)
    with world() as here:
        proof = opened(folder, here, precision, lost)
        with pytest.raises(UserError, match="in the rehearsal") as caught:
            proof.prove(0, prompts(), SAMPLING)
        assert f"; {lost} did not reach the engine" in str(caught.value)


def shifted(groups: Sequence[Group], by: float) -> list[Group]:
    """The groups with every log μ moved by so much, up and down in turn."""
    return [
        replace(
            group,
            rollouts_G=tuple(
                replace(r, logps=tuple(p + by * (-1) ** i for i, p in enumerate(r.logps)))
                for r in group.rollouts_G
            ),
        )
        for group in groups
    ]


def test_training_is_warned_first_and_stops_only_beyond_noise(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    said: list[str] = []
    with world() as here:
        proof = opened(folder, here, BF16)
        proof.prove(0, prompts(), SAMPLING)
        sound = sampled(proof)
        unit = proof._explained(proof.looks[1])

        def check(first: float, all_: float) -> float:
            groups = shifted(sound[:1], first) + shifted(sound[1:], all_)
            return proof.check(groups[:1], "after sync 1", lambda: groups, said.append)

        assert check(0, 0) < 2 * proof.floor
        assert proof.noise is None and said == []  # one replay was enough
        odd, wrong = (SUSPECT + STOP) / 2 * unit + 5e-3, 2 * STOP * unit + 5e-3
        check(wrong, 0)  # one odd group
        assert len(said) == 1 and "warning: sync: after sync 1 mean |log π − log μ| is" in said[0]
        assert proof.noise is not None
        check(odd, odd)  # not far enough beyond noise to stop, and said before
        assert len(said) == 1
        check(0, 0)
        check(odd, odd)
        assert len(said) == 2
        with pytest.raises(UserError, match="after sync 1 the engine samples from other weights"):
            check(wrong, wrong)


@pytest.mark.parametrize("logp", [float("nan"), float("-inf")])
def test_a_gap_that_is_no_number_is_refused(tmp_path: Path, logp: float) -> None:
    folder = tiny_model(tmp_path)
    with world() as here:
        proof = opened(folder, here, F32)
        proof.prove(0, prompts(), SAMPLING)
        odd = [
            replace(
                group,
                rollouts_G=tuple(
                    replace(r, logps=(logp,) * len(r.logps)) for r in group.rollouts_G
                ),
            )
            for group in sampled(proof)
        ]
        with pytest.raises(UserError, match="after sync 1"):
            proof.check(odd, "after sync 1")


def tf32(x: Tensor) -> Tensor:
    """Rounds to 10 bits of mantissa, as the inputs of a product in TF32."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


class TF32Engine(LosingEngine):
    """Multiplies as a GPU does where TF32 is on."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        for module in self.model.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(lambda module, inputs: (tf32(inputs[0]),))

    def load_weights(self, weights: Any) -> None:
        matrices = ("proj", "lm_head")
        super().load_weights(
            (n, tf32(w) if any(part in n for part in matrices) else w) for n, w in weights
        )


def test_float32_on_a_gpu_may_differ_by_tf32(tmp_path: Path) -> None:
    folder = set_head(tiny_model(tmp_path, "llama"), lambda head: 12.0 * head)
    with world() as here:
        proof = opened(folder, here, F32, kind=TF32Engine)
        with pytest.raises(UserError, match="in float32 on a cpu at most"):
            proof.prove(0, prompts(), SAMPLING)
        proof.limits = LIMITS["cuda", "float32"]
        proof.prove(0, prompts(), SAMPLING)
        assert proof.looks[1].gap > LIMITS["cpu", "float32"].ceiling
        lost = opened(folder, here, F32, LAYER + "mlp.up_proj.weight", TF32Engine)
        lost.limits = proof.limits
        with pytest.raises(UserError, match=r"up_proj\.weight did not reach"):
            lost.prove(0, prompts(), SAMPLING)


def test_independent_rehearsals_add_up() -> None:
    looks = [Look(0.1, 0.1, {"a": 3.5, "b": z}) for z in (3.0, -1.0, 0.0)]
    assert Stalest.of(looks[:1]).chance > STALE_CHANCE
    found = Stalest.of(looks)
    assert found.name == "a" and found.times == pytest.approx(3.5 * 3**0.5)
    assert found.chance < STALE_CHANCE
    assert Stalest.of([Look(0.1)]).chance == 1.0


def test_the_gap_of_an_episode_is_over_what_was_sampled(tmp_path: Path) -> None:
    """Observations have no log μ: at 0, they would count as a gap of several nats each."""
    shown = (20, 30, 40)
    with world() as here:
        proof = opened(tiny_model(tmp_path), here, F32)
        proof.sync.push(1)
        first = sampled(proof)
        played = []
        for group in first:
            episodes = []
            for rollout in group.rollouts_G:
                seen = group.prompt.token_ids + rollout.token_ids + shown
                again = replace(group.prompt, token_ids=seen)
                (second,) = sample_groups(proof.engine, [again], replace(SAMPLING, samples=1))
                (then,) = second.rollouts_G
                masks = ((True,) * len(rollout.logps), (False,) * 3, (True,) * len(then.logps))
                episodes.append(
                    replace(
                        then,
                        token_ids=rollout.token_ids + shown + then.token_ids,
                        logps=rollout.logps + (0.0,) * 3 + then.logps,
                        sampled=sum(masks, ()),
                    )
                )
            played.append(replace(group, rollouts_G=tuple(episodes)))
        one_turn, both = proof.gap(first), proof.gap(played)
        everything = [
            replace(g, rollouts_G=tuple(replace(r, sampled=None) for r in g.rollouts_G))
            for g in played
        ]
        assert 0 < both < 3 * one_turn < 1e-3 < proof.gap(everything)
