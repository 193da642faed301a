"""Brings the trainer's weights into the rollout engine, versioned; `proof` shows that they arrive.

Streaming says nothing about what the engine does with a weight: only its log-probs show that.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from drpo_cli.dist import World, local
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineProtocol
from drpo_cli.trainer import lora
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.trainer import Trainer


def checkpoint_weights(
    policy: Policy, precision: Precision, world: World, merge: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """Like `trainer_weights`, under the names that checkpoints use.

    transformers fuses some weights (experts); checkpoints and engines name them one by one.
    """
    from transformers.core_model_loading import revert_weight_conversion

    for name, weight in trainer_weights(policy, precision, world, merge):
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


def adapter_weights(
    policy: Policy, precision: Precision, world: World
) -> Iterator[tuple[str, Tensor]]:
    """A and B of every layer with adapters, whole, in the engine's dtype, by their names in files.

    Consumes each rank's shards, a layer's at a time. Waits for all ranks, as `trainer_weights`.
    Produces the same weights on every rank, under the names that peft and the model's checkpoint
    give them.
    """
    dtype: torch.dtype = getattr(torch, precision.rollout)
    named = policy.named_adapters()
    for pair in zip(named[::2], named[1::2], strict=True):
        shards = [local(weight).to(dtype) for _, weight in pair]
        whole = world.gather_rows(shards, [weight.shape for _, weight in pair])
        yield from ((name, one) for (name, _), one in zip(pair, whole, strict=True))


class WeightSync:
    """Pushes versions of the weights into an engine.

    pushes_adapters  whether that is the adapter of `[lora]` alone, after all weights were pushed
    """

    def __init__(self, trainer: Trainer, engine: EngineProtocol, precision: Precision):
        self.trainer = trainer
        self.engine = engine
        self.precision = precision
        self.version = -1
        takes = bool(getattr(engine, "takes_adapters", False))  # engines of users may not say
        self.pushes_adapters = takes and trainer.policy.adapters is not None
        self._has_base = False

    def describe(self) -> str:
        """What a push of a run with `[lora]` sends."""
        if self.pushes_adapters:
            return "lora: weight syncs push the adapter alone, into the engine's slot for one"
        return "lora: weight syncs push all weights, with the adapter merged into them"

    def push(self, version: int) -> None:
        """Streams all weights into the engine, then frees the transfer's memory. Collective.

        With an engine that takes adapters, those that never change only once.
        """
        self.engine.wake("weights")
        stream = checkpoint_weights if self.engine.checkpoint_names else trainer_weights
        given = self.trainer.policy, self.precision, self.trainer.world
        if not self.pushes_adapters:
            self.engine.load_weights(stream(*given))
        else:
            if not self._has_base:
                self.engine.load_weights(stream(*given, merge=False))
                self._has_base = True
            self.engine.load_adapter(adapter_weights(*given))
        if self.trainer.world.device.type == "cuda":
            torch.cuda.empty_cache()
        self.engine.wake("kv_cache")
        self.version = version
