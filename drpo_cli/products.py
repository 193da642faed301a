"""Products of matrices of 16 bits that are given in float32, the one place for each device.

Every device sums such a product in float32, and the usual operations then round the sums to 16
bits. That is right for most of a model and wrong for what takes differences of large numbers: a
logit of 20 has steps of 0.125 in bfloat16, and its log-prob is no more exact than that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def multiply(left: Tensor, right: Tensor, device: str | None = None) -> Tensor:
    """The product of two matrices, or of two stacks of them, in float32 or wider.

    On a GPU the kernels that take 16 bits give their sums as they are. torch has such kernels for
    no CPU: there a product of 16 bits is one of copies in float32. `device` is the kind of device
    that it is computed for, if that is not where the tensors are.
    """
    narrow = left.dtype if left.element_size() < right.element_size() else right.dtype
    if (device or left.device.type) == "cuda" and narrow.itemsize == 2:
        product = torch.mm if left.ndim == 2 else torch.bmm
        return product(left.to(narrow), right.to(narrow), out_dtype=torch.float32)
    return left.to(wide(left)) @ right.to(wide(right))


def linear(
    input_TD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, device: str | None = None
) -> Tensor:
    """What a linear layer gives, [T, V], in float32 or wider. Not for autograd."""
    output_TV = multiply(input_TD, weight_VD.T, device)
    return output_TV if bias_V is None else output_TV.add_(bias_V)


def widen(layer: nn.Linear) -> None:
    """Makes a layer of 16 bits give its sums in float32, unrounded. Not for autograd."""

    def forward(input: Tensor) -> Tensor:
        flat_NV = linear(input.flatten(0, -2), layer.weight, layer.bias)
        return flat_NV.view(*input.shape[:-1], -1)

    if layer.weight.dtype.itemsize == 2:
        layer.forward = forward  # type: ignore[method-assign]


def wide(part: Tensor) -> torch.dtype:
    """Float32, or a wider dtype that a tensor has."""
    return torch.promote_types(part.dtype, torch.float32)
