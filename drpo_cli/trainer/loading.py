"""Loads the models of training through transformers, and shards them with FSDP2."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from drpo_cli import deferred, pretrained
from drpo_cli.dist import World, local
from drpo_cli.errors import UserError
from drpo_cli.settings import HeadDtype, LoraSettings, ModelSettings, TrainSettings
from drpo_cli.trainer import lora
from drpo_cli.trainer.attention import BUCKETS
from drpo_cli.trainer.decoder import find_decoder
from drpo_cli.trainer.float8 import convert
from drpo_cli.trainer.kept import keep_results
from drpo_cli.trainer.model import Policy, ValueModel
from drpo_cli.trainer.packable import choose_layout

aten = torch.ops.aten
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INTO_MAIN_MEMORY = partial(save_on_cpu, pin_memory=True)
# Operations whose results are worth their memory: matrix products and attention kernels.
PRODUCTS = [
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten._grouped_mm.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.torch_attn._varlen_attn.default,
    torch.ops.drpo.attend.default,
]


def load_policy(
    settings: ModelSettings,
    temperature: float,
    block: int,
    keep: str | None,
    world: World,
    attention: str = BUCKETS,
    adapters: LoraSettings | None = None,
    seed: int = 0,
    layout: str = "auto",
    float8: str | None = None,
    head_dtype: HeadDtype = "float32",
) -> Policy:
    """Loads the model in float32, sharded over all ranks: each reads the rows of its shards.

    `keep` is `TrainSettings.checkpointing`. With `adapters` the model is frozen, in the compute
    dtype, and adapters are trained in float32, which start from `seed`.

    `attention` is a name of `trainer.attention`, for packed rows; `layout`, `float8` and
    `head_dtype` are those of `TrainSettings`. Raises UserError for a folder without a loadable
    model, or if it should be packed and cannot be.
    """
    where, dtype = "model.path", DTYPES[settings.dtype] if adapters else torch.float32
    lm, why_padded = _load(settings, dtype, where, attention, layout)
    injected = lora.inject(lm, adapters, seed, "lora.target_modules") if adapters else None
    _recompute_activations(lm, keep)
    policy = Policy(lm, temperature, block, injected, head_dtype)
    policy.why_padded = why_padded
    convert(policy.layers, float8)
    return _shard(policy, settings, where, world)


def load_reference(
    settings: ModelSettings,
    temperature: float,
    block: int,
    world: World,
    attention: str = BUCKETS,
    layout: str = "auto",
    float8: str | None = None,
    head_dtype: HeadDtype = "float32",
    where: str = "reference.path",
) -> Policy:
    """Loads a frozen, sharded policy; its weights leave the device between forward passes.

    It computes as the policy does, so that the two differ by their weights alone. `where` is the
    key that names it.
    """
    lm, _ = _load(settings, DTYPES[settings.dtype], where, attention, layout)
    policy = Policy(lm.requires_grad_(False), temperature, block, head_dtype=head_dtype)
    convert(policy.layers, float8)
    return _shard(policy, settings, where, world, offload=True)


def load_value_model(
    settings: ModelSettings,
    keep: str | None,
    world: World,
    attention: str = BUCKETS,
    layout: str = "auto",
) -> ValueModel:
    """Loads a value model on the decoder of a language model, in float32, and shards it."""
    where = "critic.path"
    lm, _ = _load(settings, torch.float32, where, attention, layout, decoder_only=True)
    _recompute_activations(lm, keep)
    return _shard(ValueModel(lm), settings, where, world)


def _load(
    settings: ModelSettings,
    dtype: torch.dtype,
    key: str,
    attention: str,
    layout: str,
    decoder_only: bool = False,
) -> tuple[Any, str | None]:
    """The model with deferred weights, and why its rows are padded; None where they are packed."""
    pretrained.refuse_quantised(settings, key)
    code = settings.trust_remote_code
    config = pretrained.read(AutoConfig, settings.path, key, trust_remote_code=code)
    why_padded = choose_layout(layout, config, code)
    # in evaluation mode: no dropout, no router noise, so that π is a function of the weights alone
    lm = pretrained.load_deferred(
        AutoModelForCausalLM,
        settings.path,
        key,
        trust_remote_code=code,
        decoder_only=decoder_only,
        dtype=dtype,
        generation_config=GenerationConfig(),  # the trainer needs none, and the file may be odd
        **({} if why_padded else {"attn_implementation": attention}),
    )
    if why_padded and layout == "packed":
        raise UserError(
            f"train.layout: is 'packed', but {Path(settings.path).name} ({key}) cannot be: "
            f"{why_padded}",
            'remove it, or set it to "padded"',
        )
    # vLLM wraps the class of a model that it runs by transformers' code: ours asks for this then
    find_decoder(lm).do_not_compile = True
    return lm, why_padded


M = TypeVar("M", Policy, ValueModel)


def _shard(model: M, settings: ModelSettings, where: str, world: World, offload: bool = False) -> M:
    """Shards a model whose weights are deferred, then reads this rank's rows of them.

    Raises UserError if any rank's shard has NaN or infinite values. Collective.
    """
    weights = deferred.take_weights(model)
    sharded = shard(model, DTYPES[settings.dtype], world, offload)
    deferred.fill_shards(sharded, weights, torch.device("cpu") if offload else world.device)
    shards = ((name, local(tensor)) for name, tensor in sharded.state_dict().items())
    found = world.gather_objects(pretrained.find_not_finite(shards))
    names = (name.removeprefix("lm.") for names in found for name in names)
    pretrained.refuse_not_finite(names, settings.path, where)
    return sharded


def shard(model: M, dtype: torch.dtype, world: World, offload: bool = False) -> M:
    """Shards a model with FSDP2: a unit per decoder layer; embedding, norm and head in the root.

    Units are moved to the device and cut there one by one: a device never holds the whole model.
    With `offload` the shards stay in main memory, and the device holds only the unit at work.
    """
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    leaves = offload and world.device.type == "cuda"
    offloading = CPUOffloadPolicy() if leaves else OffloadPolicy()
    layers: list[nn.Module] = model.layers
    alone: list[nn.Module] = [layer for layer in layers if not _shares_weights(layer, layers)]
    for module in (*alone, model):
        fully_shard(module, mesh=world.mesh, mp_policy=precision, offload_policy=offloading)
    return model


def _shares_weights(layer: nn.Module, layers: Iterable[nn.Module]) -> bool:
    """Whether other layers use weights of this one; such weights are left to the root's unit."""
    own = {id(weight) for weight in layer.parameters()}
    others = (weight for other in layers if other is not layer for weight in other.parameters())
    return any(id(weight) in own for weight in others)


def sync_gradients(model: nn.Module, settings: TrainSettings, last: bool) -> None:
    """Says how the next backward pass reduces gradients; `last`: it is the last of its update.

    By default each pass reduces to shards, whose sum is kept: 4 bytes per weight, divided by the
    ranks that share it. Replicas of a shard are summed only after the last pass. With `per_update`,
    passes before the last reduce nothing, and each rank keeps the gradient of every weight.
    """
    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(last or settings.reduce_gradients == "per_microbatch")
    model.set_requires_all_reduce(last)


def reshard(model: nn.Module) -> None:
    """Frees the gathered weights after a forward pass that no backward pass follows.

    The root unit keeps them for the backward pass. If none comes, they outlive a change of the
    shards, and the next forward pass and the next sync would read the old weights.
    """
    assert isinstance(model, FSDPModule)
    model.reshard()


def _recompute_activations(
    lm: Any, keep: str | None, offload: Callable[[], Any] = INTO_MAIN_MEMORY
) -> None:
    """Makes each layer keep only what `TrainSettings.checkpointing` says for the backward pass.

    `offload` gives the hooks that move a layer's inputs out of the device's memory, and back.
    """
    if keep is None:
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if keep == "products":
        options["context_fn"] = partial(keep_results, PRODUCTS)
    lm.gradient_checkpointing_enable(options)
    for module in lm.modules():
        if isinstance(module, GradientCheckpointingLayer):
            # it recomputes only in training mode; its children stay in eval mode
            module.training = True
            if keep == "offloaded_inputs":
                offloaded = partial(_offloaded, offload, module._gradient_checkpointing_func)
                module._gradient_checkpointing_func = offloaded


def _offloaded(offload: Callable[[], Any], checkpoint: Callable[..., Any], *inputs: Any) -> Any:
    with offload():
        return checkpoint(*inputs)
