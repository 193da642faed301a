"""Padded micro-batches: each sequence is computed as if it were alone, by a model of any layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Zamba2Config,
    Zamba2ForCausalLM,
)

from drpo_cli.dist import World, full
from drpo_cli.errors import UserError
from drpo_cli.settings import CriticSettings, ReferenceSettings
from drpo_cli.trainer import pack as packing
from drpo_cli.trainer.batches import microbatches
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.pack import bins, pack
from support.families import FAMILIES
from support.models import Row, experience, group, samples, tiny_model, tokenizer, world
from support.training import (
    ByHand,
    flat,
    furthest,
    gradients_by_hand,
    open_policy,
    open_trainer,
    valued,
    weights,
)

LENGTHS = [(3, 5), (1, 1), (7, 20), (2, 9), (12, 4)]  # the third has more than a window of 8
BUDGET = 64
NEVER_PACKED = ["qwen3_next", "qwen3_5", "lfm2", "falcon_h1", "nemotron_h", "stablelm"]


def objective(batch: Sequence[ByHand]) -> Tensor:
    """Σ advantage · log π, by hand."""
    parts = [(one.logp_T * torch.tensor(one.sample.advantages)).sum() for one in batch]
    return torch.stack(parts).sum()


def trained(policy: Policy, batch: Sequence[Row], here: World) -> tuple[Tensor, dict[str, Tensor]]:
    """log π of all response tokens, and the gradients of `objective`, over several passes."""
    exp, found_T = experience(batch), torch.empty(sum(len(row.response_ids) for row in batch))
    parts = microbatches(exp, BUDGET, here, policy.costs)
    for rows in parts:
        packed = pack(exp.take(rows), here.device, costs=policy.costs)
        assert len(packed.input_ids_I) <= BUDGET
        logp_T, _ = policy(packed)
        (logp_T * packed.adv_T).sum().backward()
        for row, own_T in zip(rows, exp.take(rows).split(logp_T.detach()), strict=True):
            found_T[slice(*exp.offsets[row : row + 2].tolist())] = own_T
    named = policy.named_weights()
    return found_T, {name: full(w.grad) for name, w in named if w.grad is not None}


@pytest.mark.parametrize("kind", [*NEVER_PACKED, "gpt_oss", "gemma2", "gemma4", "llama"])
def test_padded_is_unpadded(tmp_path: Path, kind: str) -> None:
    folder, batch = tiny_model(tmp_path, kind), samples(LENGTHS)
    with world() as here:
        policy = open_policy(folder, here, layout="auto" if kind in NEVER_PACKED else "padded")
        assert policy.why_padded and policy.costs.padded
        logp_T, gradients = trained(policy, batch, here)
    expected: list[Tensor] = []

    def loss(seen: list[ByHand]) -> Tensor:
        expected.extend(one.logp_T.detach() for one in seen)
        return objective(seen)

    by_hand, _ = gradients_by_hand(folder, batch, loss)
    assert torch.cat(expected).std() > 0.3
    bound = FAMILIES[kind].rounding
    torch.testing.assert_close(logp_T, torch.cat(expected), atol=bound, rtol=0)
    assert gradients.keys() == by_hand.keys()
    for name, gradient in by_hand.items():
        largest = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(gradients[name], gradient, atol=bound * largest, rtol=0)


def test_a_model_with_another_module_layout_is_trained(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32}
    more: dict[str, Any] = {**sizes, "num_hidden_layers": 2, "num_attention_heads": 2}
    batch = samples(LENGTHS)
    for lm, why in (
        (GPT2LMHeadModel(GPT2Config(n_positions=64, n_layer=2, n_head=2, **sizes)), None),
        (OPTForCausalLM(OPTConfig(ffn_dim=64, word_embed_proj_dim=32, **more)), None),
        (MptForCausalLM(MptConfig(n_layers=2, n_heads=2, **sizes)), "no position ids"),
        (Zamba2ForCausalLM(Zamba2Config(**more, **ZAMBA)), "hybrid"),  # its layers share weights
    ):
        folder = tmp_path / type(lm).__name__
        lm.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        by_hand, _ = gradients_by_hand(folder, batch, objective)
        with world() as here:
            policy = open_policy(folder, here)
            assert (why or "None") in str(policy.why_padded) and len(policy.layers) == 2
            _, gradients = trained(policy, batch, here)
        assert furthest(gradients, by_hand) < 1e-5


@pytest.mark.parametrize(("kind", "rounding"), [("qwen3_5", 0.0), ("qwen3_next", 1e-5)])
def test_what_pads_a_row_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, rounding: float
) -> None:
    folder, batch = tiny_model(tmp_path, kind), samples(LENGTHS)
    with world() as here:
        policy = open_policy(folder, here)
        logp_T, gradients = trained(policy, batch, here)
        policy.zero_grad()
        monkeypatch.setattr(packing, "PADDING", 7)
        other_T, others = trained(policy, batch, here)
    # experts sum in another order when they get other tokens, so theirs is not 0
    torch.testing.assert_close(logp_T, other_T, atol=rounding, rtol=0)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    assert furthest(gradients, others) < 1e-5 * largest


def test_a_padded_batch_without_rows_has_zero_gradients(tmp_path: Path) -> None:
    with world() as here:
        policy = open_policy(tiny_model(tmp_path, "falcon_h1"), here)
        packed = pack(experience([]), here.device, costs=policy.costs)
        policy(packed)[0].sum().backward()
        gradients = [w.grad for _, w in policy.named_weights()]
    assert packed.input_ids_I.tolist() == [0] and packed.sequences == 1
    assert all(g is not None and full(g).count_nonzero() == 0 for g in gradients)


@pytest.mark.parametrize("kind", NEVER_PACKED)
def test_packed_rows_are_refused_where_they_would_leak(tmp_path: Path, kind: str) -> None:
    with world() as here, pytest.raises(UserError, match=r"train\.layout: is 'packed'") as refused:
        open_policy(tiny_model(tmp_path, kind), here, layout="packed")
    assert "padded" in refused.value.fix


ZAMBA: dict[str, Any] = {
    "layers_block_type": ["hybrid", "hybrid"],
    "hybrid_layer_ids": [0, 1],
    "num_mem_blocks": 1,
    "intermediate_size": 32,
    "n_mamba_heads": 4,
    "mamba_headdim": 16,
    "mamba_ngroups": 1,
    "mamba_d_state": 8,
    "chunk_size": 8,
}


@pytest.mark.parametrize("layout", ["auto", "padded"])
def test_a_model_that_is_not_causal_is_refused(tmp_path: Path, layout: str) -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertLMHeadModel(BertConfig(vocab_size=64, intermediate_size=32, **sizes)).save_pretrained(
        tmp_path
    )
    with world() as here, pytest.raises(UserError, match="its tokens see later ones"):
        open_policy(tmp_path, here, layout=layout)


STEPS: dict[str, Any] = {
    "reference": ReferenceSettings(coefficient=0.5),
    "critic": CriticSettings(),
    "gradient_checkpointing": True,
    "anchor": "trainer",
    "tokens_per_microbatch": 40,
    "epsilon": 1e-3,
}


def test_a_step_over_padded_rows_is_one_over_packed_rows(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    batch = valued([*group(5, [3, 9, 4]), *samples(LENGTHS)])
    found = {}
    for layout in ("padded", "packed"):
        with world() as here:
            trainer = open_trainer(folder, here, layout=layout, **STEPS)
            assert trainer.critic is not None and trainer.reference is not None
            models = (trainer.policy, trainer.critic.model, trainer.reference.policy)
            assert {model.costs.padded for model in models} == {layout == "padded"}
            metrics = flat(trainer.step(experience(batch)))
            heads = {name: full(w) for name, w in trainer.critic.model.named_parameters()}
            found[layout] = metrics, weights(trainer.policy), heads
    padded, packed = found["padded"], found["packed"]
    assert padded[0] == pytest.approx(packed[0], rel=1e-4, abs=1e-6)
    assert furthest(padded[1], packed[1]) < 1e-6 and furthest(padded[2], packed[2]) < 1e-6


@given(
    lengths=st.lists(st.integers(1, 40), max_size=30),
    budget=st.integers(1, 60),
    at_least=st.integers(1, 12),
)
def test_padding_counts_against_the_budget(lengths: list[int], budget: int, at_least: int) -> None:
    groups = bins(lengths, budget, at_least, padded=True)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert len(groups) >= at_least
    for own in groups:
        sizes = [lengths[i] for i in own]
        assert len(own) <= 1 or len(own) * max(sizes) <= budget
    if at_least == 1:
        bounds = [(max(lengths[i] for i in g), min(lengths[i] for i in g)) for g in groups if g]
        assert all(a[1] >= b[0] for a, b in pairwise(bounds))
