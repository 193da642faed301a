"""`[parallel]`: how the trainer's weights are spread over the ranks."""

from __future__ import annotations

from drpo_cli.settings.base import Count, Settings


class ParallelSettings(Settings):
    """How the weights, gradients and moments of the trained models are spread over the ranks.

    All ranks form a mesh of `replicate` × `shard` (HSDP of FSDP2). Whatever its shape, the updates
    are the same up to rounding, and a checkpoint of one mesh is continued on any other.
    """

    shard: Count | None = None
    """Neighbouring ranks that share one copy of the weights; all ranks divided by `replicate` if
    not set. Weights are gathered over these ranks only: the GPUs of a node, if the model fits."""
    replicate: Count | None = None
    """Copies of the weights, over which gradients are summed after each update; all ranks divided
    by `shard` if not set."""

    def mesh(self, ranks: int) -> tuple[int, int]:
        """`replicate` and `shard` on so many ranks; their product is another number if they do
        not fit."""
        replicate = self.replicate or ranks // (self.shard or ranks)
        return replicate, self.shard or ranks // replicate
