"""LoRA: each linear layer computes W x + s B A x; A and B are trained, all else is frozen.

peft puts the adapters into the model. A starts from random numbers that depend on the run's seed
and the layer's name alone, so that they are the same on any number of ranks; B starts at zero, so
that the model starts as its base.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from drpo_cli.adapter_folder import Adapter, read_adapter
from drpo_cli.deferred import Deferred
from drpo_cli.dist import World, local
from drpo_cli.errors import UserError
from drpo_cli.settings import LoraSettings
from drpo_cli.trainer.decoder import find_decoder, find_layers

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import Linear

Adapted = Mapping[str, "Linear"]
"""The layers of a model that have adapters, by name."""
NAME = "default"
"""peft's name of the one adapter."""
A, B = f"lora_A.{NAME}.weight", f"lora_B.{NAME}.weight"
"""The matrices of a layer, by their names in it."""
PREFIX = "base_model.model."
"""What peft puts before the names of a model's layers in files."""


@dataclass(frozen=True)
class Adapters:
    """What adapters are.

    config  how they are applied: the `adapter_config.json` that peft and engines read
    base    a fingerprint of the weights that they belong to
    """

    config: dict[str, Any]
    base: str


def inject(lm: Any, settings: LoraSettings, seed: int | None, key: str) -> Adapters:
    """Puts adapters into a model whose weights are deferred; freezes all other weights.

    Without a seed they have no values, for a model that has none.

    Raises UserError, naming `key`, if no linear layer has the name of a target, and naming
    `lora.start` if that adapter does not fit.
    """
    from peft import inject_adapter_in_model

    base = fingerprint(lm)
    prefix, layers = _layers(lm)
    config = _config(settings, _find_targets(layers, prefix, settings, key))
    lm.requires_grad_(False)
    # peft moves what is not on the meta device, and fake tensors cannot be moved
    with warnings.catch_warnings(), unset_fake_temporarily(), torch.device("meta"):
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")  # it sets it itself
        # Not into the whole: for a model with stacked experts peft would then change the targets
        inject_adapter_in_model(config, layers, NAME)
    given = None if settings.start is None or seed is None else _read(lm, settings)
    for name, layer in adapted(lm).items():
        for part, start in ((A, f"{seed} {name}"), (B, None)):
            shape = layer.get_parameter(part).shape
            linear: Any = layer.get_submodule(part.removesuffix(".weight"))
            like = torch.empty(shape, device="cpu" if seed is None else "meta")
            if given is not None:
                value = given.pairs[name][part == B].float()
            else:
                value = like if seed is None else _start(like, start)
            linear.weight = nn.Parameter(value)
    lm.eval()
    return Adapters(_describe(lm, settings), base)


def _read(lm: Any, settings: LoraSettings) -> Adapter:
    """The adapter to start from. Raises UserError if it is not what the settings describe."""
    assert settings.start is not None
    found, layers = read_adapter(settings.start), adapted(lm)
    where = f"lora.start: {settings.start}"
    if odd := sorted(found.pairs.keys() ^ layers.keys()):
        raise UserError(
            f"{where} has adapters in other layers than lora.target_modules names, such as "
            f"{odd[0]}",
            "name the layers of that adapter, or start a new one",
        )
    for name, layer in layers.items():
        there = [list(one.shape) for one in found.pairs[name]]
        here = [list(layer.get_parameter(part).shape) for part in (A, B)]
        if there != here:
            raise UserError(
                f"{where}: A and B of {name} are {there[0]} and {there[1]} there, {here[0]} and "
                f"{here[1]} here",
                "set lora.rank to that of the adapter, and model.path to its base",
            )
        if not math.isclose(found.scaling(name), settings.scaling):
            raise UserError(
                f"{where} scales {name} by {found.scaling(name):g}, and lora.alpha and lora.rank "
                f"give {settings.scaling:g}",
                "set lora.alpha and lora.rslora to those of the adapter",
            )
    return found


def fingerprint(lm: nn.Module) -> str:
    """A hash of names, dtypes, shapes and some numbers of a model whose weights are deferred.

    Of a matrix the first row counts, so that little is read; of stacked experts only the shape.
    """
    found = hashlib.sha256()
    for name, weight in lm.named_parameters():
        found.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        if isinstance(weight, Deferred) and weight.ndim <= 2:
            rows = weight.rows(0, 1 if weight.ndim > 1 else len(weight))
            found.update(rows.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _describe(lm: Any, settings: LoraSettings) -> dict[str, Any]:
    layers = adapted(lm)
    config = _config(settings, _short(layers, lm))
    config.base_model_name_or_path = lm.name_or_path
    config.inference_mode = True
    config.task_type = "CAUSAL_LM"
    config.fan_in_fan_out = any(layer.fan_in_fan_out for layer in layers.values())
    found: dict[str, Any] = dict(config.to_dict())  # type: ignore[no-untyped-call]
    found["peft_type"] = "LORA"
    return {key: sorted(v) if isinstance(v, set) else v for key, v in found.items()}


def adapted(lm: Any) -> Adapted:
    """The layers that have adapters, under their names in the model."""
    from peft.tuners.lora import Linear

    prefix, layers = _layers(lm)
    named = layers.named_modules()
    return {f"{prefix}{name}": layer for name, layer in named if isinstance(layer, Linear)}


def base_name(name: str) -> str:
    """The name that a frozen weight has in a model without adapters."""
    return name.replace(".base_layer.", ".")


def named_adapters(layers: Adapted) -> Iterator[tuple[str, nn.Parameter]]:
    """A and B of every layer that has them, under their names in peft's files."""
    for name, layer in layers.items():
        for part in (A, B):
            yield f"{PREFIX}{name}.{part.replace(f'.{NAME}', '')}", layer.get_parameter(part)


@contextmanager
def adapters_off(layers: Adapted) -> Iterator[None]:
    """The base model, whose layers compute W x alone, inside the block."""
    for layer in layers.values():
        layer._disable_adapters = True  # the public switch would also freeze A and B
    try:
        yield
    finally:
        for layer in layers.values():
            layer._disable_adapters = False


def merge(
    layers: Adapted, bucket: Sequence[tuple[str, nn.Parameter]], world: World
) -> list[tuple[str, Tensor]]:
    """This rank's rows of some weights, with s B A added, in float32, where there is an adapter.

    Consumes: weights of `Policy.named_weights`, the same on all ranks; the rows of their A and B.
    Waits for: the ranks that share this copy of the weights, if any of the weights has an adapter.
    Produces: names and rows; those of weights without an adapter are the shards themselves.
    """
    names = [name for name, _ in bucket]
    found = {n: layers[stem] for n in names if (stem := n.removesuffix(".weight")) in layers}
    parts = [layer.get_parameter(part) for layer in found.values() for part in (A, B)]
    whole = world.gather_rows([local(p) for p in parts], [p.shape for p in parts]) if parts else []
    pairs = dict(zip(found, zip(whole[::2], whole[1::2], strict=True), strict=True))
    merged = []
    for name, weight in bucket:
        rows = local(weight)
        if name in pairs:
            most = -(-weight.shape[0] // world.shards)  # FSDP cuts blocks of equally many rows
            first = min(world.shard * most, weight.shape[0])
            rows = rows.float() + delta(found[name], *pairs[name], first, first + len(rows))
        merged.append((name, rows))
    return merged


def delta(layer: Linear, a: Tensor, b: Tensor, first: int, last: int) -> Tensor:
    """Rows `first` to before `last` of s B A, as the layer's weight is laid out."""
    scaling: float = layer.scaling[NAME]
    if layer.fan_in_fan_out:  # GPT-2 stores W transposed
        return scaling * (b @ a[:, first:last]).T
    return scaling * (b[first:last] @ a)


def _config(settings: LoraSettings, targets: Iterable[str]) -> LoraConfig:
    from peft import LoraConfig

    alpha: Any = settings.alpha  # declared an integer, but any number will do
    return LoraConfig(
        r=settings.rank,
        lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,
        use_rslora=settings.rslora,
        target_modules=list(targets),
    )


def _start(like: Tensor, seed: str | None) -> Deferred:
    """What a matrix starts from: peft's own distribution for A; zeros for B, without a seed."""

    def rows(first: int, last: int) -> Tensor:
        if seed is None:
            return torch.zeros(last - first, *like.shape[1:])
        digest = hashlib.sha256(seed.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        whole = torch.empty(like.shape, dtype=like.dtype)
        return nn.init.kaiming_uniform_(whole, a=math.sqrt(5), generator=generator)[first:last]

    return Deferred(like, rows)


def _layers(lm: Any) -> tuple[str, nn.Module]:
    """The list of decoder layers, and what the names of all in it begin with."""
    layers: nn.Module = find_layers(find_decoder(lm))
    return next(f"{name}." for name, module in lm.named_modules() if module is layers), layers


def _find_targets(layers: nn.Module, prefix: str, settings: LoraSettings, key: str) -> list[str]:
    """The names, in the list of decoder layers, of the linear layers that get adapters."""
    linear, wanted = _linear(layers), settings.target_modules
    if wanted == "all-linear":
        return linear

    def has(name: str, target: str) -> bool:
        return f".{prefix}{name}".endswith(f".{target}")

    missing = [target for target in wanted if not any(has(name, target) for name in linear)]
    if missing:
        there = sorted({name.rpartition(".")[2] for name in linear})
        raise UserError(
            f"{key}: the model has no linear layer {', '.join(map(repr, missing))} in its decoder "
            f"layers; it has {', '.join(there)}",
            'name some of these, or set it to "all-linear"',
        )
    return [name for name in linear if any(has(name, target) for target in wanted)]


def _linear(layers: nn.Module) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    modules = dict(layers.named_modules())
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)]
    # kernels of state-space layers take the weight of this one, and would pass its adapter by
    passed_by = {
        f"{name}.out_proj" for name, module in modules.items() if "Mamba" in type(module).__name__
    }
    return [name for name in linear if name not in passed_by]


def _short(layers: Iterable[str], lm: nn.Module) -> list[str]:
    """The last parts of the layers' names, if they mean these layers alone; else the full names.

    In a model with stacked experts peft takes `gate_proj` for a part of these.
    """
    full = list(layers)
    last = {name.rpartition(".")[2] for name in full}
    inside = tuple(f"{name}." for name in full)
    names = (name for name, _ in lm.named_modules() if not name.startswith(inside))
    meant = {name for name in names if name.rpartition(".")[2] in last}
    stacked = any(weight.ndim > 2 for weight in lm.parameters())
    return full if stacked or meant != set(full) else sorted(last)
