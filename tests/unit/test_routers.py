"""What routers choose is heard, replayed, computed in float32 and frozen, in every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from drpo_cli.errors import UserError
from drpo_cli.routers import TOPK, Routers, compute_in_float32, find_blocks

SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
GROUPS = {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
LATENT = {"q_lora_rank": None, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "v_head_dim": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2Moe": {"num_experts": 8, "shared_expert_intermediate_size": 32},
    "Qwen3Moe": {"num_experts": 8, "norm_topk_prob": True},
    "Mixtral": {"num_local_experts": 8},
    "Olmoe": {"num_experts": 8},
    "GptOss": {"num_local_experts": 8},
    "GraniteMoe": {"num_local_experts": 8},
    "Glm4Moe": GROUPS,
    "DeepseekV3": GROUPS | LATENT | {"qk_nope_head_dim": 16, "num_key_value_heads": 4},
    "Dots1": GROUPS | {"n_shared_experts": 1},
    "MiniMaxM2": {"num_local_experts": 8},
    "Ernie4_5_Moe": {"moe_num_experts": 8, "moe_k": 2, "moe_layer_start_index": 0},
    "HunYuanMoEV1": {"num_experts": 8, "moe_topk": 2},
    "Lfm2Moe": {"num_experts": 8, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "Gemma4Text": {
        "enable_moe_block": True,
        "num_experts": 8,
        "top_k_experts": 2,
        "vocab_size_per_layer_input": 64,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
IDS = torch.arange(4, 28).view(2, 12)


def tiny(family: str) -> Any:
    """A random model of a family."""
    config_class = getattr(transformers, f"{family}Config")
    config = config_class(**{**SIZES, **FAMILIES[family]})
    torch.manual_seed(0)
    lm = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")._from_config(config)
    for weight in lm.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return lm.eval()


def logits(lm: Any) -> Tensor:
    """Of two sequences."""
    found: Tensor = lm(IDS, use_cache=False).logits.float()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_choice_is_heard_and_replayed_with_the_gradients_of_its_scores(family: str) -> None:
    lm = tiny(family)
    plain = logits(lm)
    plain.square().mean().backward()
    own = {name: w.grad for name, w in lm.named_parameters() if w.grad is not None}
    lm.zero_grad(set_to_none=True)
    heard: dict[int, Tensor] = {}
    routers = Routers(lm, lambda place, chosen, given: heard.__setitem__(place, chosen))
    blocks = len(routers.blocks)
    assert blocks and torch.equal(logits(lm), plain)
    chosen = torch.stack([heard[place] for place in range(blocks)], dim=1)
    assert chosen.shape == (IDS.numel(), blocks, 2)

    routers.given = chosen.flip(-1)  # in another order, as engines return it
    replayed = logits(lm)
    torch.testing.assert_close(replayed, plain, atol=1e-5, rtol=1e-5)
    replayed.square().mean().backward()
    for name, weight in lm.named_parameters():
        if weight.grad is not None or name in own:
            size = own[name].abs().max()
            torch.testing.assert_close(weight.grad, own[name], atol=1e-4 * size, rtol=1e-3)
    learning = [name for block in routers.blocks for name in own if name.startswith(block.name)]
    assert any("gate" in name or "router" in name for name in learning)

    routers.given = (chosen + 1) % 8
    assert (logits(lm) - plain).abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_in_float32(family: str) -> None:
    lm = tiny(family).bfloat16()
    seen: list[torch.dtype] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in TOPK and args[0].shape[-1] == 8:
                seen.append(args[0].dtype)
            if func is torch.nn.functional.linear and args[1].shape == (8, 64):
                seen.append(args[0].dtype)
            return func(*args, **(kwargs or {}))

    for block in find_blocks(lm):
        compute_in_float32(block)
    with Watch():
        after = logits(lm)
    assert seen and set(seen) == {torch.float32}
    assert lm.get_input_embeddings()(IDS).dtype == torch.bfloat16
    assert after.isfinite().all()


def test_a_router_that_cannot_be_heard_is_an_error() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.Linear(4, 4)
            self.experts.num_experts = 4  # type: ignore[assignment]
            self.gate = torch.nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            chosen: Tensor = self.experts(x * self.gate(x).argmax(-1, keepdim=True))
            return chosen

    model = torch.nn.Sequential(Block())
    Routers(model, lambda *_: None)
    with pytest.raises(UserError, match=r"train\.router_replay: 0, a block of experts"):
        model(torch.ones(2, 4))
