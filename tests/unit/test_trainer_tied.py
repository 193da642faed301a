"""The gradient of a matrix that is both embedding and head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from drpo_cli.dist import full
from drpo_cli.trainer.pack import pack
from drpo_cli.trainer.tied import TiedEmbedding, add_rows, begin_pass, share
from support.allocated import Allocated
from support.models import experience, samples, tiny_model, world
from support.training import ByHand, gradients_by_hand, open_policy

LENGTHS = [(3, 5), (1, 1), (7, 20), (2, 9), (12, 4)]


def read(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def total(seen: list[ByHand]) -> Tensor:
    return torch.cat([one.logp_T for one in seen]).sum()


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])  # the second scales what it looks up
def test_gradients_are_those_of_autograd(tmp_path: Path, kind: str) -> None:
    folder, batch = tiny_model(tmp_path, kind, tie_word_embeddings=True), samples(LENGTHS)
    expected, _ = gradients_by_hand(folder, batch, total)
    with world() as here:
        policy = open_policy(folder, here)
        embedding = policy.lm.get_input_embeddings()
        assert isinstance(embedding, TiedEmbedding)
        for part in (batch[:2], batch[2:]):  # gradients of two passes add up
            logp_T, _ = policy(pack(experience(part), here.device))
            logp_T.sum().backward()
        found = {name: full(w.grad) for name, w in policy.named_weights() if w.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        near = 1e-5 * max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(found[name], gradient, atol=near, rtol=0, msg=name)


def test_the_backward_pass_holds_one_gradient_of_the_matrix(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, "qwen3", tie_word_embeddings=True, vocab_size=10_000)
    size = read(folder).get_input_embeddings().weight.nbytes
    with world() as here:
        policy = open_policy(folder, here)
        logp_T, _ = policy(pack(experience(samples(LENGTHS)), here.device))
        with Allocated() as held:
            logp_T.sum().backward()
    # the matrix itself, its gradient, and the copy of that which FSDP reduces
    assert 2.5 * size < held.peak < 3.5 * size


def test_padding_is_not_trained_by_lookups(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, "qwen3", tie_word_embeddings=True)
    found: list[Tensor] = []
    for tie in (False, True):
        lm = read(folder)
        embedding = lm.get_input_embeddings()
        embedding.padding_idx = 5
        if tie:
            share(lm)
            assert isinstance(embedding, TiedEmbedding) and begin_pass(lm) is not None
        embedding(torch.tensor([[5, 6, 5, 7, 7]])).square().sum().backward()
        found.append(embedding.weight.grad)
    assert found[0][5].count_nonzero() == 0 and found[0][7].count_nonzero() > 0
    torch.testing.assert_close(found[1], found[0])


def test_rows_are_summed_in_float32() -> None:
    index_N = torch.cat([torch.full((1000,), 3), torch.tensor([1, 6, 1])])
    rows_ND = torch.full((1003, 4), 1.0, dtype=torch.bfloat16)
    total_VD = torch.full((8, 4), 0.5, dtype=torch.bfloat16)
    add_rows(total_VD, index_N, rows_ND)
    exact = torch.full((8,), 0.5).index_add_(0, index_N, torch.ones(1003))
    assert exact[3] == 1000.5 and total_VD[:, 0].tolist() == exact.bfloat16().tolist()
    add_rows(total_VD, index_N[:0], rows_ND[:0])
    assert total_VD[:, 1].tolist() == exact.bfloat16().tolist()


def test_what_is_not_one_matrix_or_not_trained_is_left_alone(tmp_path: Path) -> None:
    untied = read(tiny_model(tmp_path / "untied", "qwen3", tie_word_embeddings=False))
    frozen = read(tiny_model(tmp_path / "frozen", "qwen3", tie_word_embeddings=True))
    frozen.requires_grad_(False)
    for lm in (untied, frozen):
        share(lm)
        assert begin_pass(lm) is None
        assert type(lm.get_input_embeddings()) is torch.nn.Embedding
