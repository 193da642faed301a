"""The routers of a mixture of experts: what they choose, and a choice of ours in its place.

In every architecture of transformers, a block of experts has a module `experts`, a router beside it
(`gate` or `router`), and chooses by `torch.topk` over the scores of all experts. So one place works
for all of them: while a block computes, that call is heard, and answered with other experts and
their own scores. What a router makes of the scores (softmax, sigmoid, a bias that only the choice
sees, sums that are scaled to 1) stays its own, and so do its gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from drpo_cli.errors import UserError

TOPK = (torch.topk, Tensor.topk)


class Block(NamedTuple):
    """A block of experts: its name in the model, its router, and the number of its experts."""

    name: str
    module: nn.Module
    router: nn.Module | None
    experts: int


def find_blocks(model: nn.Module) -> list[Block]:
    """The blocks of experts of a model of transformers, in the order of their layers."""
    found = []
    for name, module in model.named_modules():
        count = getattr(getattr(module, "experts", None), "num_experts", None)
        if isinstance(count, int):
            router = getattr(module, "gate", getattr(module, "router", None))
            found.append(Block(name, module, router, count))
    return found


def unheard(block: Block, key: str, what: str) -> UserError:
    """The error for a block that does not do `what` in a way that can be heard."""
    return UserError(
        f"{key}: {block.name}, a block of experts, does not {what}",
        f"leave {key} out: this architecture has a router of another kind",
    )


class Routers:
    """Hears what the routers of a model choose; `given` replaces their choice.

    given   int64, [tokens, blocks, experts of a token]: the experts of each token that the next
            forward pass sees, in the order in which a block sees tokens; None for the routers' own.
            It stays until it is set again, since activations may be recomputed in a backward pass.
    heard   is called with every choice of the routers' own: the place of the block, int64
            [tokens, experts of a token], and what was given instead, if anything
    """

    def __init__(
        self, model: nn.Module, heard: Callable[[int, Tensor, Tensor | None], object]
    ) -> None:
        self.blocks = find_blocks(model)
        self.given: Tensor | None = None
        self.heard = heard
        for place, block in enumerate(self.blocks):
            plain: Any = block.module.forward
            block.module.forward = partial(self._forward, place, block, plain)

    def _forward(self, place: int, block: Block, plain: Any, *args: Any, **options: Any) -> Any:
        given = None if self.given is None else self.given[:, place]
        with _Choice(block.experts, given) as choice:
            output = plain(*args, **options)
        if choice.own is None:
            raise unheard(block, "train.router_replay", "choose by the largest scores")
        self.heard(place, choice.own, given)
        return output


class _Choice(TorchFunctionMode):
    """Inside, the choice among so many experts is `given`, if anything; `own` is the router's."""

    def __init__(self, experts: int, given: Tensor | None) -> None:
        super().__init__()
        self.experts = experts
        self.given = given
        self.own: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See `TorchFunctionMode`. Groups of experts are chosen from other shapes."""
        found = func(*args, **(kwargs or {}))
        if func not in TOPK:
            return found
        scores = args[0] if args else (kwargs or {})["input"]
        if scores.ndim != 2 or scores.shape[1] != self.experts:
            return found
        self.own = found.indices
        if self.given is None:
            return found
        if self.given.shape != self.own.shape:
            raise RuntimeError(f"experts of {self.given.shape} for a choice of {self.own.shape}")
        return torch.return_types.topk((scores.gather(1, self.given), self.given))


def compute_in_float32(block: Block) -> None:
    """Has a router multiply in float32, and return float32; its weight is as the model holds it."""
    router: Any = block.router
    plain, outer = router.forward, block.module.forward

    def scores(*args: Any, **options: Any) -> Any:
        with _Float32Products() as products:
            output = plain(*args, **options)
        if not products.count:
            raise unheard(block, "train.router_dtype", "compute scores by a linear layer")
        return output

    def forward(hidden: Tensor, *args: Any, **options: Any) -> Any:
        output = outer(hidden, *args, **options)  # promoted, where scores are multiplied in
        if isinstance(output, tuple):
            return (output[0].to(hidden.dtype), *output[1:])
        return output.to(hidden.dtype)

    router.forward = scores
    block.module.forward = forward


class _Float32Products(TorchFunctionMode):
    """Inside, linear layers compute in float32."""

    count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See `TorchFunctionMode`."""
        if func is not nn.functional.linear:
            return func(*args, **(kwargs or {}))
        self.count += 1
        wide = [arg.float() if isinstance(arg, Tensor) else arg for arg in args]
        more = {k: v.float() if isinstance(v, Tensor) else v for k, v in (kwargs or {}).items()}
        return func(*wide, **more)
