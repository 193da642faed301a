"""Products of training in FP8, by torchao: inputs, weights and gradients are cast for each product.

Weights, gradients and optimizer stay as they are; a layer keeps its name and its parameters. Of a
decoder layer's linear layers those are converted whose sizes the products allow, except adapters
and routers. The stacked experts of transformers are not modules of that kind: they stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from drpo_cli.errors import UserError

OLDEST_GPU = (8, 9)  # Ada
MULTIPLE = 16  # of both sizes of a weight, for torch._scaled_mm on a GPU
NOT_CONVERTED = {"lora_A", "lora_B", "gate", "router"}
"""Parts of a name: adapters, which are small, and routers, whose choices must not be rounded."""


def check(recipe: str | None, device: str) -> None:
    """Raises UserError if torchao is missing, or this process's GPU has no products in FP8."""
    if recipe is None:
        return
    try:
        import torchao.float8  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"train.float8: torchao does not import ({error})",
            "install it with pip install 'drpo[float8]', or remove train.float8",
        ) from error
    if device != "cuda":
        return
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < OLDEST_GPU:
        raise UserError(
            f"train.float8: products in FP8 need a GPU of compute capability 8.9 (Ada) or later, "
            f"and this one has {major}.{minor}",
            "remove it; training then computes in bfloat16",
        )


def convert(layers: list[nn.Module], recipe: str | None) -> None:
    """Makes linear layers of decoder layers compute in FP8; `recipe` is `train.float8`.

    The last axis of a gradient's product are tokens, of which there are any number: it is padded.
    """
    if recipe is None:
        return
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = replace(Float8LinearConfig.from_recipe_name(recipe), pad_inner_dim=True)
    for layer in layers:
        convert_to_float8_training(layer, module_filter_fn=_is_converted, config=config)


def _is_converted(module: Any, name: str) -> bool:
    if not isinstance(module, nn.Linear) or NOT_CONVERTED & set(name.split(".")):
        return False
    return module.in_features % MULTIPLE == 0 and module.out_features % MULTIPLE == 0
