"""What the ranks of a run send each other in a step, over which links, and how long it takes.

The counts are those of FSDP2 and of a sync. Every unit's weights are gathered for the forward pass
and again for the backward pass of each micro-batch, in the compute dtype; gradients are
reduce-scattered in float32. A ring over D devices with B bytes in all brings each of them
B · (D − 1)/D; where the ring crosses m nodes, each node receives at least B · (m − 1)/m.
The times are lower bounds: bytes ÷ bandwidth, nothing overlapped, no latency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FLOAT32 = 4


@dataclass(frozen=True)
class Links:
    """Stated rates; None where none was stated.

    device   GB/s that a device receives from the others in its node
    network  GB/s that a node receives from other nodes, all its devices together
    tflops   TFLOP/s that training reaches on a device
    """

    device: float | None = None
    network: float | None = None
    tflops: float | None = None


@dataclass(frozen=True)
class Layout:
    """Where ranks are: `shards` neighbouring ranks hold one copy of the weights."""

    world: int
    shards: int
    nodes: int

    @property
    def copies(self) -> int:
        """Copies of the weights, which are kept equal."""
        return self.world // self.shards

    @property
    def per_node(self) -> int:
        """Devices of a node."""
        return self.world // self.nodes

    @property
    def nodes_per_copy(self) -> int:
        """Nodes over which the shards of one copy lie."""
        return max(1, self.shards // self.per_node)

    @property
    def nodes_of_copies(self) -> int:
        """Nodes over which the same shard of all copies lies."""
        return self.nodes // self.nodes_per_copy


@dataclass(frozen=True)
class Flow:
    """One kind of exchange in a step.

    device   bytes that each device receives per step
    network  of these, bytes that a node receives from other nodes, for all its devices together
    """

    name: str
    device: int
    network: int

    def seconds(self, links: Links) -> float | None:
        """The least time per step; None where a rate that it needs was not stated."""
        needed = ((self.device, links.device), (self.network, links.network))
        if any(size and not rate for size, rate in needed):
            return None
        return max((size / (rate * 1e9) for size, rate in needed if size and rate), default=0.0)


@dataclass(frozen=True)
class Work:
    """What a step does.

    weights      number of weights, adapters included
    trained      of these, those that have gradients
    pushed       of these, those that a sync moves
    width        bytes of a weight in the compute dtype of training
    engine       bytes of a weight in the engine
    passes       forward and backward passes per step, on one device
    replays      forward passes per step without a backward pass
    updates      optimizer updates per step
    reductions   reductions of gradients per step: one per pass, or one per update
    tokens       tokens that a device trains on in a step
    """

    weights: int
    trained: int
    pushed: int
    width: int
    engine: int
    passes: int
    replays: int
    updates: int
    reductions: int
    tokens: int


def flows(work: Work, layout: Layout) -> tuple[Flow, ...]:
    """Everything of size that is exchanged in a step."""
    gathers = 2 * work.passes + work.replays
    shard = FLOAT32 * work.trained // layout.shards
    found = (
        _around("gather weights", gathers * work.width * work.weights, layout),
        _around("reduce gradients", work.reductions * FLOAT32 * work.trained, layout),
        Flow(
            "equal copies",
            2 * work.updates * shard * (layout.copies - 1) // layout.copies,
            2
            * work.updates
            * shard
            * layout.per_node
            * (layout.nodes_of_copies - 1)
            // layout.nodes_of_copies,
        ),
        _around("sync", work.engine * work.pushed, layout),
    )
    return tuple(flow for flow in found if flow.device)


def _around(name: str, size: int, layout: Layout) -> Flow:
    """A ring over the shards of one copy, which moves `size` bytes in all."""
    nodes = layout.nodes_per_copy
    return Flow(name, size * (layout.shards - 1) // layout.shards, size * (nodes - 1) // nodes)


@dataclass(frozen=True)
class Transfer:
    """Bytes that one weight sync moves.

    weights   into each engine: the model in the engine's dtype
    received  by each device from the others
    links     by all devices together
    nodes     of these, at least so many from another node
    """

    weights: int
    received: int
    links: int
    nodes: int


def estimate_transfer(weights: int, devices: int, nodes: int, copies: int = 1) -> Transfer:
    """A sync of `weights` bytes: each device sends its rows to all others of its copy.

    `devices` and `nodes` are all of the run, over which the copies are spread evenly.
    """
    shard = devices // copies
    return Transfer(
        weights=weights,
        received=weights * (shard - 1) // shard,
        links=weights * (shard - 1) * copies,
        nodes=weights * (math.ceil(nodes / copies) - 1) * copies,
    )


def training_seconds(work: Work, links: Links) -> float | None:
    """Seconds of matrix products per step, attention not counted.

    6 FLOP per weight and token; 4 per weight that is frozen, since it needs no gradient.
    """
    if not links.tflops:
        return None
    operations = 4 * work.weights + 2 * work.trained
    return operations * work.tokens / (links.tflops * 1e12)
