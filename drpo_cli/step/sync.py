"""Brings the trainer's weights into the rollout engine, versioned; `proof` shows that they arrive.

Streaming says nothing about what the engine does with a weight: only its log-probs show that.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from drpo_cli.dist import World
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineProtocol
from drpo_cli.trainer import lora
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.trainer import Trainer


def checkpoint_weights(
    policy: Policy, precision: Precision, world: World
) -> Iterator[tuple[str, Tensor]]:
    """Like `trainer_weights`, under the names that checkpoints use.

    transformers fuses some weights (experts); checkpoints and engines name them one by one.
    """
    from transformers.core_model_loading import revert_weight_conversion

    for name, weight in trainer_weights(policy, precision, world):
        yield from revert_weight_conversion(policy.lm, {name: weight}).items()


def trainer_weights(
    policy: Policy, precision: Precision, world: World, merge: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """Full weights in the engine's dtype, under the names of the trainer's model.

    Adapters of `[lora]` are merged into them, or with `merge` off left out.

    Consumes each rank's shards, a decoder layer at a time. Waits for all ranks: every rank must
    consume the whole iterator. Produces the same weights on every rank. Shards are converted to the
    engine's precision before they travel, so that no byte travels in vain. Before them come the
    buffers that a checkpoint has, such as a router's bias, as they are: an engine under a trainer
    reads no checkpoint.
    """
    saved = policy.lm.state_dict().keys()
    yield from ((name, buffer) for name, buffer in policy.lm.named_buffers() if name in saved)
    unit: dict[int, int | str]
    unit = {id(w): i for i, layer in enumerate(policy.layers) for w in layer.parameters()}
    for _, bucket in groupby(policy.named_weights(), lambda item: unit.get(id(item[1]), item[0])):
        names, weights = zip(*bucket, strict=True)
        adapted = policy.adapted if merge else {}
        merged = lora.merge(adapted, list(zip(names, weights, strict=True)), world)
        shards = [precision.convert(name, rows) for name, rows in merged]
        yield from zip(names, world.gather_rows(shards, [w.shape for w in weights]), strict=True)


class WeightSync:
    """Pushes versions of the weights into an engine."""

    def __init__(self, trainer: Trainer, engine: EngineProtocol, precision: Precision):
        self.trainer = trainer
        self.engine = engine
        self.precision = precision
        self.version = -1

    def push(self, version: int) -> None:
        """Streams all weights into the engine, then frees the transfer's memory. Collective."""
        self.engine.wake("weights")
        stream = checkpoint_weights if self.engine.checkpoint_names else trainer_weights
        policy, world = self.trainer.policy, self.trainer.world
        self.engine.load_weights(stream(policy, self.precision, world))
        if world.device.type == "cuda":
            torch.cuda.empty_cache()
        self.engine.wake("kv_cache")
        self.version = version
