"""A packed batch gives each sequence what it gets alone from plain transformers."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
)
from transformers import MambaForCausalLM as Mamba

from drpo_cli.dist import full
from drpo_cli.errors import UserError
from drpo_cli.trainer.attention import BUCKETS, NAMES
from drpo_cli.trainer.layout import Layout, Span
from drpo_cli.trainer.pack import pack
from drpo_cli.trainer.sharing import WEIGHTS_PER_PAIR, costs
from support.families import FAMILIES
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
KINDS = [
    *("qwen3", "llama", "qwen2", "gemma3", "mistral", "phi3", "qwen3_moe", "gpt_oss", "gemma2"),
    *("gemma4", "gemma3n", "deepseek_v3", "smollm3", "cohere2", "ministral3"),
]
OTHER_TERMS = ["qwen3", "gemma3", "gpt_oss", "gemma2", "gemma4", "deepseek_v3"]


@pytest.mark.parametrize(
    ("kind", "attention"),
    [*((kind, BUCKETS) for kind in KINDS), *product(OTHER_TERMS, ON_A_GPU)],
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
        assert policy.why_padded is None
        logp_T, _ = policy(pack(experience(batch), here.device))
        (logp_T * push_T).sum().backward()
        gradients = {n: full(w.grad) for n, w in policy.named_weights() if w.grad is not None}
    assert expected_T.std() > 0.05
    bound = FAMILIES[kind].rounding
    torch.testing.assert_close(logp_T, expected_T, atol=bound, rtol=0)
    exact = {name: w.grad for name, w in plain.named_parameters() if w.grad is not None}
    assert gradients.keys() == exact.keys() and len(exact) > 10
    for name, gradient in exact.items():
        near = max(10 * bound, bound * float(gradient.abs().max()))
        torch.testing.assert_close(gradients[name], gradient, atol=near, rtol=1e-4)


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


class Odd(torch.nn.Module):
    """An attention layer with an option."""

    def __init__(self, is_causal: bool = True):
        super().__init__()
        self.is_causal = is_causal


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("position_bias", {"position_bias": torch.zeros(1)}),
    ("indices", {"indices": torch.zeros(1)}),
    ("an_option_of_next_year", {"an_option_of_next_year": 3}),
    ("later tokens", {"is_causal": False}),
    ("later tokens", {"module": Odd(is_causal=False)}),
    ("a mask of its own", {"attention_mask": torch.zeros(1, 1, 3, 3)}),
    ("not those of the queries' tokens", {"key": torch.zeros(1, 2, 4, 8)}),
    ("keyword arguments that its layers do not pass", {"layout": None}),
    ("dropout", {"dropout": 0.1}),
]


@pytest.mark.parametrize("name", NAMES.values())
def test_what_is_not_computed_is_refused(name: str) -> None:
    function: Any = AttentionInterface()[name]
    heads = {part: torch.randn(1, 2, 3, 8) for part in ("query", "key", "value")}
    layout = Layout([Span(0, 3)], torch.device("cpu"))
    given = {"module": Odd(), "attention_mask": None, "layout": layout, "dropout": 0.0, **heads}
    harmless = {"position_ids": torch.arange(3), "use_cache": False, "position_bias": None}
    use_on_cpu()
    function(**given, **harmless)
    for what, option in REFUSED:
        with pytest.raises(UserError, match=f'Odd needs .*{what}.*; set train.layout = "padded"'):
            function(**{**given, **option})


def test_costs_know_every_layers_head_size(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model(tmp_path, "gemma4"))
    layer = torch.nn.Linear(48, 100, bias=False)
    found = costs([layer], config, masked=True)
    heads = 4 * (16 + 32 + 16 + 32)
    assert found.token == pytest.approx(48 * 100 / (heads * WEIGHTS_PER_PAIR))
    latent = SimpleNamespace(num_hidden_layers=2, num_attention_heads=3, qk_head_dim=24, head_dim=8)
    assert costs([layer], latent, True).token == pytest.approx(4800 / (144 * WEIGHTS_PER_PAIR))
    recurrent = SimpleNamespace(num_hidden_layers=2, hidden_size=7)
    assert costs([layer], recurrent, True).token == pytest.approx(4800 / (7 * WEIGHTS_PER_PAIR))


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
        with world() as here, pytest.raises(UserError, match=r"it has .* layers") as refused:
            open_policy(tmp_path / name, here, layout="packed")
        assert "padded" in refused.value.fix


def test_a_folder_without_a_model_is_the_users_mistake(tmp_path: Path) -> None:
    with world() as here, pytest.raises(UserError, match=r"model\.path: .* has no config\.json"):
        open_policy(tmp_path, here)
