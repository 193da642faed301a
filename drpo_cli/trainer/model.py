"""The policy: a Hugging Face causal language model, sharded by FSDP2 at every world size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from drpo_cli.dist import World
from drpo_cli.errors import UserError
from drpo_cli.settings import ModelSettings
from drpo_cli.trainer.attention import NAME as PACKED_ATTENTION
from drpo_cli.trainer.logprobs import Head, chunked_logprobs
from drpo_cli.trainer.pack import Packed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PACKABLE_LAYERS = {"full_attention", "sliding_attention"}


class Policy(nn.Module):
    """Maps a packed micro-batch to log π and entropy of its response tokens."""

    def __init__(self, lm: Any, temperature: float, chunk: int):
        super().__init__()
        self.lm = lm
        self.chunk = chunk
        config = lm.config.get_text_config()
        self.head = Head(
            temperature,
            softcap=getattr(config, "final_logit_softcapping", None),
            multiplier=_logit_multiplier(config),
        )

    def forward(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """log π [R] with its gradient, and entropy [R] without, both float32."""
        hidden_TD = self.lm.get_decoder()(
            input_ids=packed.input_ids_T[None],
            position_ids=packed.position_ids_T[None],
            use_cache=False,
            layout=packed.layout,
        ).last_hidden_state[0]
        out = self.lm.get_output_embeddings()
        return chunked_logprobs(
            hidden_TD[packed.predict_R],
            out.weight,
            out.bias,
            packed.target_R,
            self.head,
            self.chunk,
        )

    def named_weights(self) -> list[tuple[str, nn.Parameter]]:
        """Every parameter once, under the name transformers gives it; tied ones under one name."""
        return list(self.lm.named_parameters())


def load_policy(
    settings: ModelSettings, temperature: float, chunk: int, checkpointing: bool, world: World
) -> Policy:
    """Loads the model in float32 and shards it over all ranks.

    Raises UserError for a folder that holds no loadable model, or one that cannot be packed.
    """
    try:
        lm = AutoModelForCausalLM.from_pretrained(
            settings.path,
            dtype=torch.float32,
            attn_implementation=PACKED_ATTENTION,
            trust_remote_code=settings.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model.path: {settings.path} does not load: {error}") from error
    _refuse_unpackable(lm, Path(settings.path).name)
    lm.eval()  # no dropout, no router noise: π is a function of the weights alone
    if checkpointing:
        _recompute_activations(lm)
    return shard(Policy(lm, temperature, chunk), DTYPES[settings.dtype], world)


def shard(policy: Policy, dtype: torch.dtype, world: World) -> Policy:
    """FSDP2: one unit a decoder layer, the rest (embedding, norm, head) in the root.

    Each unit is moved to the device and cut there in turn: a device never holds the whole model.
    """
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for layer in policy.lm.get_decoder().layers:
        fully_shard(layer, mesh=world.mesh, mp_policy=precision)
    fully_shard(policy, mesh=world.mesh, mp_policy=precision)
    return policy


def sync_gradients(policy: Policy, last: bool) -> None:
    """Gradients are reduced over ranks after the last micro-batch of an update, not after each."""
    assert isinstance(policy, FSDPModule)
    policy.set_requires_gradient_sync(last)


def reshard(policy: Policy) -> None:
    """Drops the whole weights that a forward pass without a backward pass leaves behind.

    The root unit keeps them for the backward pass to come; without one they would outlive a
    change of the shards, and both the next forward pass and a sync would read the old weights.
    """
    assert isinstance(policy, FSDPModule)
    policy.reshard()


def _logit_multiplier(config: Any) -> float:
    if (scale := getattr(config, "logit_scale", None)) is not None:
        return float(scale)
    return 1.0 / float(getattr(config, "logits_scaling", None) or 1.0)


def _recompute_activations(lm: Any) -> None:
    lm.gradient_checkpointing_enable({"use_reentrant": False})
    for module in lm.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True  # it recomputes only then; the modules in it stay in eval mode


def _refuse_unpackable(lm: Any, name: str) -> None:
    if not hasattr(lm.get_decoder(), "layers"):
        raise UserError(
            f"model.path: {name} is a {type(lm).__name__}, which does not keep its decoder layers "
            f"in `layers` as packed training needs; train a model of another architecture"
        )
    kinds = set(getattr(lm.config.get_text_config(), "layer_types", None) or ["full_attention"])
    if not kinds <= PACKABLE_LAYERS:
        raise UserError(
            f"model.path: {name} has {', '.join(sorted(kinds - PACKABLE_LAYERS))} layers, whose "
            f"state would leak between packed sequences; train an attention-only model"
        )
