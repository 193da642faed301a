"""A trainer, an engine and the sync between them, on one rank, for row 8."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks._memory import peak_extra_bytes
from benchmarks._trainers import open_trainer
from drpo_cli import dist, plugins
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext
from drpo_cli.settings import ModelSettings
from drpo_cli.step.sync import WeightSync

CONTEXT = 64  # tokens: nothing is sampled


class SyncCase:
    """The operations that row 8 times, on every rank at the same time."""

    def __init__(self, sync: WeightSync, world: dist.World):
        import torch

        self.sync = sync
        self.world = world
        weights = sync.trainer.policy.named_weights()
        self.sources = [torch.randn(weight.shape) for _, weight in weights]
        self.targets = [torch.zeros_like(source) for source in self.sources]

    def push(self) -> None:
        """Pushes the weights, as a step does."""
        self.sync.push(self.sync.version + 1)
        self.world.barrier()

    def copy(self) -> None:
        """Copies the same bytes from memory to memory."""
        for source, target in zip(self.sources, self.targets, strict=True):
            target.copy_(source)
        self.world.barrier()

    def push_extra_bytes(self) -> int:
        """The peak memory of this rank in a push, above what it holds between pushes."""
        return peak_extra_bytes(self.push)

    def bytes(self) -> int:
        """Size of the weights, in the engine's dtype, which is the trainer's here."""
        return sum(source.nbytes for source in self.sources)


@contextmanager
def open_case(folder: Path, engine: str) -> Iterator[SyncCase]:
    """Opens trainer and engine, both in float32; the engine stops before the process group."""
    model = ModelSettings(path=str(folder), dtype="float32")
    plugin = plugins.load("rollout", engine)
    with dist.join() as world:
        trainer = open_trainer(folder, world)
        rollout = plugin.entry(plugin.Config(), EngineContext(model, CONTEXT, world.size))
        try:
            sync = WeightSync(trainer, rollout, Precision(model.dtype, model.dtype))
            yield SyncCase(sync, world)
        finally:
            rollout.close()
