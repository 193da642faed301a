"""Whatever a family does to its logits, the trainer's head gives the model's own, or refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from drpo_cli.errors import UserError
from drpo_cli.trainer.decoder import find_decoder
from drpo_cli.trainer.heads import measure
from drpo_cli.trainer.logprobs import Head
from support.models import SIZES, SPREAD

SMALL = {**SIZES, "hidden_size": 64, "head_dim": 16, "intermediate_size": 64}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
FAMILIES: dict[str, tuple[dict[str, Any], tuple[float | None, float]]] = {
    "Llama": ({}, (None, 1.0)),
    "Cohere": ({"logit_scale": 0.0625}, (None, 0.0625)),
    "Granite": ({"logits_scaling": 6.0}, (None, 1 / 6)),
    "HyperCLOVAX": ({"logits_scaling": 2.5}, (None, 2.5)),  # as Granite's, and multiplied
    "MiniCPM3": ({**LATENT, "v_head_dim": 16, "dim_model_base": 32}, (None, 0.5)),
    "FalconH1": ({"lm_head_multiplier": 0.3, "mamba_d_ssm": 64, "mamba_n_heads": 4}, (None, 0.3)),
    "Gemma2": ({"final_logit_softcapping": 3.0}, (3.0, 1.0)),
    "NanoChat": ({"final_logit_softcapping": 3.0}, (3.0, 1.0)),
    "RecurrentGemma": ({"logits_soft_cap": 3.0, "lru_width": 64, "num_hidden_layers": 3}, (3.0, 1)),
    "GPT2": ({"n_embd": 64, "n_layer": 1, "n_head": 2}, (None, 1.0)),
    "OPT": ({"ffn_dim": 64, "word_embed_proj_dim": 64}, (None, 1.0)),  # calls its decoder itself
    "Phi": ({}, (None, 1.0)),  # a head with a bias
}


def tiny(family: str, own: dict[str, Any]) -> Any:
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **own})
    head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = getattr(transformers, family + head)(config).eval()
        for parameter in lm.parameters():
            nn.init.normal_(parameter, std=4 * SPREAD)
    return lm


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_gives_the_models_own_logits(family: str) -> None:
    own, expected = FAMILIES[family]
    lm = tiny(family, own)
    softcap, multiplier = measure(lm, find_decoder(lm))
    assert softcap == expected[0] and math.isclose(multiplier, expected[1], rel_tol=1e-9)
    out, ids = lm.get_output_embeddings(), torch.arange(3, 15)[None]
    with torch.no_grad():
        wanted = lm(input_ids=ids).logits[0].float()
        hidden = find_decoder(lm)(input_ids=ids).last_hidden_state[0]
        found = Head(1.0, softcap, multiplier)(hidden, out.weight, out.bias)
    assert softcap is None or wanted.abs().max() > softcap / 2  # so that it changes them
    assert torch.allclose(found, wanted, atol=1e-5, rtol=1e-5)


class Shifted(transformers.LlamaForCausalLM):  # type: ignore[misc]
    """Does to its logits what no family does."""

    def forward(self, *given: Any, **named: Any) -> Any:
        out = super().forward(*given, **named)
        out.logits = self.changed(out.logits)
        return out

    def changed(self, logits: Tensor) -> Tensor:
        return logits + 1


class Cut(Shifted):
    """Has fewer words than its head."""

    def changed(self, logits: Tensor) -> Tensor:
        return logits[..., :60]


class Masked(Shifted):
    """Never says one word."""

    def changed(self, logits: Tensor) -> Tensor:
        logits = logits.clone()
        logits[..., 7] = -1e9
        return logits


class Twice(Shifted):
    """Has a head on what it makes of the decoder's hidden states."""

    def changed(self, logits: Tensor) -> Tensor:
        return logits.tanh() * logits


class Failing(Shifted):
    """Wants an input that the trainer does not have."""

    def changed(self, logits: Tensor) -> Tensor:
        raise ValueError("pixel_values are missing")


@pytest.mark.parametrize("kind", [Shifted, Cut, Masked, Twice, Failing])
def test_other_logits_are_refused(kind: type[Shifted]) -> None:
    with torch.device("meta"):  # no weight is read
        lm = kind(transformers.LlamaConfig(**SMALL))
    said = "pixel_values are missing" if kind is Failing else "not those of its head"
    with pytest.raises(UserError, match=rf"is a {kind.__name__}, .*{said}"):
        measure(lm, find_decoder(lm))
