"""Memory that attention's kernel takes for itself on a GPU, which fake tensors do not show."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import drpo_cli.trainer.attention  # noqa: F401  it makes the operator known

BLOCK = 128
"""Queries of the kernel's largest block: it keeps so many more for every sequence."""


class Workspace(TorchDispatchMode):
    """Allocates what the backward pass of `varlen` does: `mha_varlen_bwd` in torch's flash_api.cpp.

    That is a float32 gradient of the queries, and where queries share key heads, a gradient of keys
    and values for every query head.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        held = []
        if func is torch.ops.torch_attn._varlen_attn_backward.default:
            held = _allocate(args[1], args[2], len(args[6]) - 1)
        result = func(*args, **(kwargs or {}))
        del held  # only now
        return result


def _allocate(query: Tensor, key: Tensor, sequences: int) -> list[Tensor]:
    heads, size = query.shape[1:]
    multiple = 32 if size <= BLOCK else 64
    padded = len(query) + BLOCK * sequences
    numbers = [heads * padded, heads * padded * -(-size // multiple) * multiple]
    held = [query.new_empty(count, dtype=torch.float32) for count in numbers]
    if key.shape[1] != heads:
        held += [key.new_empty(len(key), heads, size) for _ in range(2)]
    return held
