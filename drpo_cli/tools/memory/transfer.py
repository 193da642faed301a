"""What a weight sync moves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Transfer:
    """Bytes of one sync.

    weights   what an engine gets: the model in its dtype
    received  by each device from the others
    links     by all devices together
    nodes     of which at least so much comes from another node, over all nodes
    """

    weights: int
    received: int
    links: int
    nodes: int


def transfer(weights: int, devices: int, nodes: int) -> Transfer:
    """A sync of `weights` bytes: each device sends its rows of every weight to all others."""
    return Transfer(
        weights=weights,
        received=weights * (devices - 1) // devices,
        links=weights * (devices - 1),
        nodes=weights * (nodes - 1),
    )
