"""Weights that are changed for a while: disturbed, rounded, or moved within their rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from drpo_cli.dist import World, copies, full, local
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import derive_seed
from drpo_cli.trainer.lora import NAME, A
from drpo_cli.trainer.model import Policy

DISTURBANCE = 0.1  # the relative change of each weight, as a standard deviation
PART = 2**22  # numbers that are changed at a time: an embedding may be as large as all else


class Changed:
    """Changes weights of a policy in place while open; restores the exact originals."""

    def __init__(self, policy: Policy, weights: Sequence[tuple[str, nn.Parameter]]):
        self.policy = policy
        self.weights = weights
        self.shards = [(name, local(weight)) for name, weight in weights]
        self.originals: list[Tensor] = []

    def change(self, name: str, shard: Tensor) -> None:
        """Changes a shard in place."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.originals = [shard.to("cpu", copy=True) for _, shard in self.shards]
        for name, shard in self.shards:
            self.change(name, shard)
        return self

    def __exit__(self, *failure: object) -> None:
        for (_, shard), original in zip(self.shards, self.originals, strict=True):
            shard.copy_(original)


class _Random(Changed):
    """Adds noise of mean 0 and standard deviation 1, times `size`, to weights.

    Shards differ in their noise, and copies of one shard have the same: see `dist.copies`.
    """

    def __init__(self, policy: Policy, seed: int, weights: Sequence[tuple[str, nn.Parameter]]):
        super().__init__(policy, weights)
        self.seed = seed
        self.places = {name: copies(weight)[0] for name, weight in weights}

    def change(self, name: str, shard: Tensor) -> None:
        """See `Changed.change`."""
        seed = derive_seed(self.seed, name, self.places[name])
        noise = torch.Generator(shard.device).manual_seed(seed)
        for part in shard.view(-1).split(PART):
            random = torch.randn(part.shape, generator=noise, device=shard.device)
            part += random.mul_(self.size(name, part, shard.ndim == 1))

    def size(self, name: str, numbers: Tensor, vector: bool) -> Tensor | float:
        """The standard deviation of the change of each of a weight's numbers, [N].

        vector  the weight has one dimension
        """
        raise NotImplementedError


class Disturbed(_Random):
    """Weights that no engine can have but by a push of them.

    A vector's zeros (Gemma's norms, biases that were not trained) are disturbed as if they were 1.
    Of a model with adapters these alone are disturbed: nothing else has gradients, or changes. B
    starts at zero, and then A has no effect, so both get numbers of which s B A is as large as the
    disturbance of the weight that it is added to.
    """

    def __init__(self, policy: Policy, seed: int):
        super().__init__(policy, seed, policy.named_adapters() or policy.named_weights())
        self.sizes = _adapter_sizes(policy)

    def size(self, name: str, numbers: Tensor, vector: bool) -> Tensor | float:
        """See `_Random.size`."""
        if name in self.sizes:
            return self.sizes[name]
        scale = numbers.abs()
        if vector:
            scale[numbers == 0] = 1
        return scale.mul_(DISTURBANCE)

    def staleness(self, world: World) -> dict[str, float]:
        """By how many standard deviations the gradient points to the undisturbed weights.

        Consumes: in `.grad`, the gradient of Σ (log π − log μ) log π, up to a factor.
        Waits for: all ranks.
        Produces: for each weight −Σ g d / √Σ (g d)², with g its gradient and d its disturbance,
            reversed. An engine without this disturbance gives a large positive number. If the
            engine has it, g does not depend on the signs of d, which are random: for any g, the
            chance of more than z is at most exp(−z²/2).
        """
        sums: list[float] = []
        for (_, weight), (_, shard), original in zip(
            self.weights, self.shards, self.originals, strict=True
        ):
            total = square = 0.0
            if weight.grad is None:
                sums += (total, square)
                continue
            parts = zip(
                *(x.reshape(-1).split(PART) for x in (original, shard, local(weight.grad))),
                strict=True,
            )
            count = copies(weight)[1]
            for before, now, gradient in parts:
                product = gradient.float() * (before.to(now.device) - now)
                total += float(product.sum()) / count
                square += float(product.square().sum()) / count
            sums += (total, square)
        totals = world.sum(sums)
        return {
            name: -total / math.sqrt(square) if square > 0 else 0.0
            for (name, _), total, square in zip(self.shards, totals[::2], totals[1::2], strict=True)
        }


class Jittered(_Random):
    """Moves every weight by the distance of neighbouring numbers of the compute format."""

    def __init__(self, policy: Policy, seed: int, unit: float):
        super().__init__(policy, seed, [*policy.named_weights(), *policy.named_adapters()])
        self.unit = unit

    def size(self, name: str, numbers: Tensor, vector: bool) -> Tensor | float:
        """See `_Random.size`."""
        return numbers.abs().mul_(self.unit)


class Rounded(Changed):
    """Rounds every weight as the engine has it: FSDP cuts rows, and each row has its own scale."""

    def __init__(self, policy: Policy, precision: Precision, quantised: frozenset[str]):
        super().__init__(policy, policy.named_weights())
        self.precision, self.quantised = precision, quantised
        if not precision.rounds:
            self.shards = []

    def change(self, name: str, shard: Tensor) -> None:
        """See `Changed.change`."""
        shard.copy_(self.precision.imitate(name, shard, self.quantised))


def _adapter_sizes(policy: Policy) -> dict[str, float]:
    """How large the disturbance of each A and B is, as a standard deviation. Collective."""
    names = iter(name for name, _ in policy.named_adapters())
    found: dict[str, float] = {}
    for layer in policy.adapted.values():
        a, weight = layer.get_parameter(A), layer.get_parameter("base_layer.weight")
        size = max(_root_mean_square(a), (3 * a.shape[1]) ** -0.5)  # at least peft's at the start
        product: float = layer.scaling[NAME] * size * math.sqrt(len(a))  # s B A, for a B of size 1
        found[next(names)] = size
        found[next(names)] = DISTURBANCE * _root_mean_square(weight) / product
    return found


def _root_mean_square(weight: Tensor) -> float:
    norm = torch.linalg.vector_norm(weight.detach().float())
    return float(full(norm)) / math.sqrt(weight.numel())
