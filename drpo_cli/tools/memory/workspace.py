"""Memory that attention takes for itself, which fake tensors do not show."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import drpo_cli.trainer.attention  # noqa: F401  it makes the operators known
from drpo_cli.trainer import tiles

BLOCK = 128
"""Queries of the kernel's largest block: it keeps so many more for every sequence."""


class Workspace(TorchDispatchMode):
    """Allocates what attention does inside of its operations.

    The backward pass of `varlen` (`mha_varlen_bwd` in torch's flash_api.cpp) has a float32 gradient
    of the queries, and where queries share key heads, a gradient of keys and values for every query
    head. `tiles` has its tiles, and float32 gradients of keys and values.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        held = []
        if func is torch.ops.torch_attn._varlen_attn_backward.default:
            held = _allocate(args[1], args[2], len(args[6]) - 1)
        elif func is torch.ops.drpo.attend.default:
            held = [_tiles(args[0], args[1], 2)]
        elif func is torch.ops.drpo.attend_backward.default:
            held = [_tiles(args[1], args[2], 3 if args[-1] is None else 4)]
            held += [part.new_empty(part.shape, dtype=torch.float32) for part in args[2:4]]
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


def _tiles(query: Tensor, key: Tensor, count: int) -> Tensor:
    scores = query.shape[:3].numel() * key.shape[2]
    return query.new_empty(count * min(tiles.TILE, scores), dtype=torch.float32)
