"""Tensors that are computed where they are asked for, and no more of their rows than that.

A model whose weights are deferred takes no memory. Whatever transformers does to a weight between
its file and the model (another name, another dtype, experts stacked, a matrix cut in three) is kept
as an expression over tensors in files. A rank then reads the rows of its shard, and no others where
the expression allows it: this holds for weights that are stored as they are, and for stacked
experts. Of any other expression the whole tensor is computed, and the rows are cut from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

aten = torch.ops.aten
SAME_ROWS = {aten.alias.default, aten.detach.default, aten._to_copy.default, aten.clone.default}
"""Operations whose rows depend on the same rows of their argument alone."""
UNLIKE = {
    *(aten.empty_like, aten.zeros_like, aten.ones_like, aten.full_like),
    *(aten.rand_like, aten.randn_like),
    *(aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full),
}
"""Operations that take a shape and a dtype from their argument, and no values."""
Rows = Callable[[int, int], Tensor]


class Deferred(Tensor):
    """A tensor of known shape and dtype on the CPU, whose values are computed by `rows`.

    like  a meta tensor of its shape and dtype
    rows  computes the rows from the first to before the last; called with (0, 1) for a scalar
    """

    like: Tensor
    rows: Rows

    @staticmethod
    def __new__(cls, like: Tensor, rows: Rows) -> Deferred:
        """Makes one."""
        made: Deferred = Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype
        )
        made.like, made.rows = like, rows
        return made

    def __init__(self, like: Tensor, rows: Rows) -> None:
        """Does nothing more: `__new__` has made it."""

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Defers an operation; computes it where its result is not a tensor, as of `equal`.

        No operation changes a deferred tensor: what is in a file is not initialised again. (Some
        models of transformers would zero the row of their padding token, whenever they are loaded.)
        """
        kwargs = kwargs or {}
        if func._schema.is_mutable and isinstance(args[0], Deferred):
            return args[0]
        if func.overloadpacket in UNLIKE:
            return func(*tree_map(_like, args), **{**kwargs, "device": kwargs.get("device", "cpu")})

        def compute(place: int = 0) -> Any:
            return tree_leaves(func(*tree_map(whole, args), **tree_map(whole, kwargs)))[place]

        if not any("Tensor" in str(returned.type) for returned in func._schema.returns):
            return compute()
        on_meta = {**kwargs, "device": "meta"} if "device" in kwargs else kwargs
        likes, spec = tree_flatten(func(*tree_map(_like, args), **tree_map(_like, on_meta)))
        deferred = []
        for place, like in enumerate(likes):
            rows = _rows(func, args, kwargs, place) or _cut(partial(compute, place))
            deferred.append(Deferred(like, rows))
        return tree_unflatten(deferred, spec)

    def __repr__(self) -> str:  # type: ignore[override]
        """Says its shape: the values are not known."""
        return f"Deferred({list(self.shape)}, {self.dtype})"


def stored(source: Any, like: Tensor) -> Deferred:
    """A tensor of which `source` gives rows when it is sliced, such as one in a file."""
    return Deferred(like, lambda first, last: source[first:last] if like.ndim else source[...])


def read_files(paths: Iterable[Path]) -> dict[str, Tensor]:
    """The tensors of safetensors and `.bin` files by name. The files must stay as they are.

    A `.bin` file that torch can map into memory is read where its tensors are asked for, too.
    """
    from transformers.modeling_utils import load_state_dict

    found: dict[str, Tensor] = {}
    for path in paths:
        if path.suffix != ".safetensors":
            tensors = load_state_dict(str(path))  # admits nothing but tensors
            found |= {name: stored(one, _like(one)) for name, one in tensors.items()}
            continue
        file: Any = safe_open(path, framework="pt")
        for name in file.keys():  # noqa: SIM118
            source = file.get_slice(name)
            shape = source.get_shape()
            empty = source[0:0] if shape else source[...]
            found[name] = stored(source, torch.empty(shape, dtype=empty.dtype, device="meta"))
    return found


def compute(model: nn.Module, buffers_only: bool = False) -> None:
    """Computes the deferred weights of a model, or its buffers alone, each whole, in place."""
    _exchange(model, whole, buffers_only)


def take_weights(model: nn.Module) -> dict[str, Tensor]:
    """The deferred weights by name; meta tensors stand in their places afterwards."""
    weights: dict[str, Tensor] = {
        name: one for name, one in model.named_parameters() if isinstance(one, Deferred)
    }
    _exchange(model, _like)
    return weights


def fill_shards(model: nn.Module, weights: Mapping[str, Tensor], device: torch.device) -> None:
    """Gives a model that was sharded on the meta device its weights, one after the other.

    Consumes: the weights by name, and of each only the rows in this rank's shard.
    Waits for: nothing; it is not a collective.
    Produces: the shards on `device`. Of a tensor that is whole here, all of it.
    """
    # as `to_empty`, which would also empty the buffers
    model._apply(lambda one: torch.empty_like(one, device=device) if one.is_meta else one)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (weight := weights.get(name)) is not None:
                _fill(parameter, weight)


def _fill(parameter: Tensor, weight: Tensor) -> None:
    assert isinstance(weight, Deferred)
    if not isinstance(parameter, DTensor):
        parameter.copy_(whole(weight))
        return
    shape, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    assert shape[1:] == parameter.shape[1:], "FSDP cuts rows"
    if shape[0]:
        parameter.to_local().copy_(weight.rows(offset[0], offset[0] + shape[0]))


def _exchange(
    model: nn.Module, new: Callable[[Tensor], Tensor], buffers_only: bool = False
) -> None:
    """Puts a new tensor in the place of each deferred one; tied ones stay one."""
    made: dict[Tensor, Tensor] = {}
    for module in model.modules():
        kinds: list[dict[str, Any]] = [module._buffers]
        if not buffers_only:
            kinds.append(module._parameters)
        for tensors in kinds:
            for name, old in tensors.items():
                if isinstance(old, Deferred):
                    if old not in made:
                        one = new(old)
                        is_weight = isinstance(old, nn.Parameter)
                        made[old] = nn.Parameter(one, old.requires_grad) if is_weight else one
                    tensors[name] = made[old]


def whole(value: Any) -> Any:
    """The values of a deferred tensor; anything else as it is."""
    return value.rows(0, len(value) if value.ndim else 1) if isinstance(value, Deferred) else value


def _like(value: Any) -> Any:
    if isinstance(value, Deferred):
        return value.like
    return value.to("meta") if isinstance(value, Tensor) else value


def _cut(compute: Callable[[], Tensor]) -> Rows:
    """Rows of a tensor that can only be computed whole."""

    def rows(first: int, last: int) -> Tensor:
        found = compute()
        # a view would keep the whole in memory
        return found if not found.ndim or last - first == len(found) else found[first:last].clone()

    return rows


def _rows(func: Any, args: tuple[Any, ...], kwargs: Any, place: int) -> Rows | None:
    """Computes rows of a result from rows of the arguments; None where that is not possible."""
    source = args[0]
    if func in SAME_ROWS and source.ndim:
        return lambda first, last: func(source.rows(first, last), **kwargs)
    dim = kwargs.get("dim", args[-1] if len(args) > (2 if func == aten.split.Tensor else 1) else 0)
    if func == aten.stack.default and dim == 0:
        return lambda first, last: func([whole(one) for one in source[first:last]])
    if func == aten.cat.default and dim > 0:
        return lambda first, last: func([_of(one, first, last) for one in source], dim)
    if func == aten.split.Tensor and dim > 0:
        return lambda first, last: func(source.rows(first, last), args[1], dim)[place]
    if func == aten.split.Tensor and dim == 0:
        offset = args[1] * place
        return lambda first, last: source.rows(first + offset, last + offset)
    return None


def _of(value: Tensor, first: int, last: int) -> Tensor:
    return value.rows(first, last) if isinstance(value, Deferred) else value[first:last]
