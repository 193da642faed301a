"""Keeps the results of some operations of a checkpointed layer; the others are computed again.

This is torch's `create_selective_checkpoint_contexts`, with one difference. A layer may change a
result in place: experts add a bias to a product, and Gemma 3n adds its input. Torch then gives the
changed tensor back, and the layer changes it once more. It refuses that where it notices, but not
for products of three dimensions: their gradients were wrong. Here a kept result is copied before
it is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves, tree_map_only


def keep_results(operations: Collection[Any]) -> tuple[TorchDispatchMode, TorchDispatchMode]:
    """Contexts for `torch.utils.checkpoint`: of the forward pass, and of the one for gradients."""
    kept: list[Any] = []
    return _Keep(operations, kept), _Give(operations, kept)


class _Keep(TorchDispatchMode):
    def __init__(self, operations: Collection[Any], kept: list[Any]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations, self.kept = operations, kept
        self.places: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func._schema.is_mutable:
            for storage in _changed(func, args, given):
                if (place := self.places.pop(storage, None)) is not None:
                    self.kept[place] = tree_map_only(Tensor, torch.clone, self.kept[place])
        result = func(*args, **given)
        if func in self.operations:
            for each in tree_leaves(result):
                if isinstance(each, Tensor):
                    self.places[each.untyped_storage()._cdata] = len(self.kept)
            self.kept.append(tree_map_only(Tensor, torch.detach, result))
        return result


class _Give(TorchDispatchMode):
    def __init__(self, operations: Collection[Any], kept: list[Any]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations, self.kept = operations, kept
        self.place = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self.operations:
            return func(*args, **(kwargs or {}))
        result, self.kept[self.place] = self.kept[self.place], None
        self.place += 1
        assert result is not None, "each result is given once"
        return result


def _changed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[int]:
    """The storages that an operation writes to."""
    declared = func._schema.arguments
    values = [*zip(declared, args, strict=False)]
    values += [(each, kwargs[each.name]) for each in declared if each.name in kwargs]
    for each, value in values:
        if each.alias_info is not None and each.alias_info.is_write:
            for tensor in tree_leaves(value):
                if isinstance(tensor, Tensor) and not is_traceable_wrapper_subclass(tensor):
                    yield tensor.untyped_storage()._cdata
