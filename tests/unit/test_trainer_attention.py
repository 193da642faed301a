"""A packed batch gives each sequence what it gets alone from plain transformers."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
)
from transformers import MambaForCausalLM as Mamba

from drpo_cli.dist import full
from drpo_cli.errors import UserError
from drpo_cli.trainer.attention import BUCKETS, NAMES
from drpo_cli.trainer.pack import pack
from support.models import Row, experience, group, samples, tiny_model, tokenizer, world
from support.training import open_policy
from support.varlen import use_on_cpu

TEMPERATURE = 0.7
# gemma3's window is 8: most of these are longer; buckets of one and of several sequences
LENGTHS = [(3, 9), (20, 30), (1, 1), (5, 1), (1, 12), (4, 7), (10, 35), (2, 2)]


def alone(lm: Any, sample: Row) -> Tensor:
    ids = torch.tensor([sample.prompt_ids + sample.response_ids])
    logits = lm(ids).logits[0, len(sample.prompt_ids) - 1 : -1].float() / TEMPERATURE
    ids_T = torch.tensor(sample.response_ids)
    logp_T: Tensor = logits.log_softmax(-1).gather(-1, ids_T[:, None])[:, 0]
    return logp_T


ON_A_GPU = [NAMES["buckets", "cuda"], NAMES["varlen", "cuda"]]
KINDS = ["qwen3", "llama", "qwen2", "gemma3", "mistral", "phi3", "qwen3_moe"]


@pytest.mark.parametrize(
    ("kind", "attention"),
    [*((kind, BUCKETS) for kind in KINDS), *product(["qwen3", "gemma3"], ON_A_GPU)],
)
def test_packed_is_unpacked(tmp_path: Path, kind: str, attention: str) -> None:
    use_on_cpu()
    folder = tiny_model(tmp_path, kind)
    plain = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    shared = group(64, [9, 1, 30, 12, 7]) + group(5, [4, 4, 9], seed=1)
    batch = samples(LENGTHS) + shared
    assert len(pack(experience(shared), torch.device("cpu")).input_ids_I) == 64 + 54 + 5 + 14
    expected_T = torch.cat([alone(plain, sample) for sample in batch])
    push_T = torch.randn(len(expected_T), generator=torch.Generator().manual_seed(1))
    (expected_T * push_T).sum().backward()
    with world() as here:
        policy = open_policy(folder, here, TEMPERATURE, attention=attention)
        logp_T, _ = policy(pack(experience(batch), here.device))
        (logp_T * push_T).sum().backward()
        gradients = {n: full(w.grad) for n, w in policy.named_weights() if w.grad is not None}
    assert expected_T.std() > 0.3
    torch.testing.assert_close(logp_T, expected_T, atol=1e-5, rtol=0)
    assert gradients.keys() == dict(plain.named_parameters()).keys()
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, atol=1e-4, rtol=1e-4)


def test_a_window_matters_to_the_sequences_of_these_tests(tmp_path: Path) -> None:
    narrow = tiny_model(tmp_path / "narrow", "gemma3")
    wide = tiny_model(tmp_path / "wide", "gemma3", sliding_window=512)
    with world() as here, torch.no_grad():
        packed = pack(experience(samples(LENGTHS)), here.device)
        near_T, far_T = (open_policy(folder, here)(packed)[0] for folder in (narrow, wide))
    assert (near_T - far_T).abs().max() > 0.1


def test_an_empty_microbatch_has_no_loss_and_zero_gradients(tmp_path: Path) -> None:
    with world() as here:
        policy = open_policy(tiny_model(tmp_path), here)
        logp_T, entropy_T = policy(pack(experience([]), here.device))
        logp_T.sum().backward()
        gradients = [full(w.grad) for _, w in policy.named_weights() if w.grad is not None]
    assert len(gradients) == len(policy.named_weights())
    assert len(logp_T) == len(entropy_T) == 0
    assert all(gradient.count_nonzero() == 0 for gradient in gradients)


def test_softcapped_attention_is_refused(tmp_path: Path) -> None:
    with world() as here, pytest.raises(UserError, match="softcap"):
        open_policy(tiny_model(tmp_path, "gemma2"), here)(
            pack(experience(samples([(2, 2)])), here.device)
        )


def sizes(**own: Any) -> dict[str, Any]:
    return {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, **own}


def test_models_whose_state_would_leak_are_refused(tmp_path: Path) -> None:
    mixed = Lfm2Config(
        **sizes(num_attention_heads=2, num_key_value_heads=2, intermediate_size=64),
        layer_types=["conv", "full_attention"],
    )
    recurrent = MambaConfig(**sizes(state_size=4))
    for name, lm in [("mixed", Lfm2ForCausalLM(mixed)), ("recurrent", Mamba(recurrent))]:
        lm.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
        with world() as here, pytest.raises(UserError, match="leak between packed sequences"):
            open_policy(tmp_path / name, here)


def test_a_model_without_a_list_of_layers_is_refused(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with world() as here, pytest.raises(UserError, match="is a GPT2LMHeadModel"):
        open_policy(tmp_path, here)


def test_a_folder_without_a_model_is_the_users_mistake(tmp_path: Path) -> None:
    with world() as here, pytest.raises(UserError, match=r"model\.path: .* has no config\.json"):
        open_policy(tmp_path, here)
