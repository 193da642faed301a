"""Weights from the sharded trainer into the rollout engine: versioned, and proven.

A sync can go wrong without an error: a tied head that keeps its old copy, experts that are not
packed again, a tensor lost on the way. Each makes the engine sample from another policy than the
one that is trained, and nothing but the log-probs shows it. So:

- At start, *rehearsal*: every weight is disturbed, pushed, and the engine's log μ of what it then
  samples is compared with the trainer's log π. A tensor that does not arrive shows at once.
- Then version 0 is pushed, and the gap measured again: the noise floor of this engine,
  model and dtype.
- After every later push, the first rollouts are replayed before anything is learned from them;
  after the last one, a few responses sampled for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from drpo_cli.dist import World, local
from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.precision import Precision, round_weight
from drpo_cli.rollout.engine.protocol import EngineProtocol, Sampling, sample_groups
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.pack import samples_of
from drpo_cli.trainer.step import Trainer
from drpo_cli.types import Group, Prompt

REHEARSAL_SCALE = 0.1  # relative size of the disturbance of each weight
CEILING = {"float32": 1e-3, "bfloat16": 0.15}  # mean |log π − log μ| no sound pair exceeds
FLOOR_FACTOR = 10.0  # a later gap may exceed the floor this many times: sampling noise
# The rehearsal's may less: in bfloat16 a lost matrix shows as little as 4 times the floor.
REHEARSAL_FACTOR = 3.0
LEAST_FLOOR = {"float32": 2e-6, "bfloat16": 5e-3}


def checkpoint_weights(
    policy: Policy, precision: Precision, world: World
) -> Iterator[tuple[str, Tensor]]:
    """As `trainer_weights`, under checkpoint names.

    transformers fuses some weights (experts); checkpoints and engines name them one by one.
    """
    from transformers.core_model_loading import revert_weight_conversion

    for name, weight in trainer_weights(policy, precision, world):
        yield from revert_weight_conversion(policy.lm, {name: weight}).items()


def trainer_weights(
    policy: Policy, precision: Precision, world: World
) -> Iterator[tuple[str, Tensor]]:
    """Every weight as the engine is to have it, whole, under the name the trainer's model gives it.

    A layer at a time, in one collective: every rank must consume the whole iterator. Shards are
    brought to the engine's precision first, so that no more bytes travel than it will hold.
    """
    unit: dict[int, int | str]
    unit = {id(w): i for i, layer in enumerate(policy.layers) for w in layer.parameters()}
    for _, bucket in groupby(policy.named_weights(), lambda item: unit.get(id(item[1]), item[0])):
        names, weights = zip(*bucket, strict=True)
        shards = [precision.convert(n, local(w)) for n, w in zip(names, weights, strict=True)]
        yield from zip(names, world.gather_rows(shards, [w.shape for w in weights]), strict=True)


class WeightSync:
    """Pushes weight versions into an engine and judges the gap that remains."""

    def __init__(self, trainer: Trainer, engine: EngineProtocol, precision: Precision):
        self.trainer = trainer
        self.engine = engine
        self.precision = precision
        self.version = -1
        self.floor = math.nan

    def push(self, version: int) -> None:
        """Streams all weights into the engine, then frees what the transfer took. Collective."""
        self.engine.wake("weights")
        stream = checkpoint_weights if self.engine.checkpoint_names else trainer_weights
        policy, world = self.trainer.policy, self.trainer.world
        self.engine.load_weights(stream(policy, self.precision, world))
        if world.device.type == "cuda":
            torch.cuda.empty_cache()
        self.engine.wake("kv_cache")
        self.version = version

    def prove(self, version: int, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        """The rehearsal, then the push of `version` and its noise floor.

        Raises UserError when the engine computes another model than the trainer, or when a
        weight does not reach it.
        """
        with Disturbed(self.trainer.policy, seed=sampling.seed):
            self.push(version)
            rehearsed = self._beyond_rounding(sample_groups(self.engine, prompts, sampling))
        self.push(version)
        self._set_floor(self._beyond_rounding(sample_groups(self.engine, prompts, sampling)))
        self._require(rehearsed, "in the rehearsal", REHEARSAL_FACTOR)

    def check(self, groups_P: Sequence[Group], occasion: str) -> float:
        """The gap over groups sampled since the last push; UserError when a weight is missing."""
        beyond = self._beyond_rounding(groups_P)
        self._require(beyond, occasion, FLOOR_FACTOR)
        return beyond if self.precision.rounding is None else self.gap(groups_P)

    def gap(self, groups_P: Sequence[Group]) -> float:
        """Mean |log π − log μ| over the groups of all ranks, log π replayed now."""
        samples = samples_of(groups_P)
        old_T = torch.tensor([logp for s in samples for logp in s.old_logps], dtype=torch.float64)
        logp_T = torch.cat([torch.empty(0), *self.trainer.replay(samples)])
        difference_T = (logp_T.double() - old_T).abs()
        total, count = self.trainer.world.sum([float(difference_T.sum()), len(difference_T)])
        return total / max(1.0, count)

    def _beyond_rounding(self, groups_P: Sequence[Group]) -> float:
        """The gap to the weights as the engine is to have them.

        How far rounding takes μ from π depends on the weights, and grows in training by more than
        a lost weight shows; against equally rounded weights it does not count.
        """
        with Rounded(self.trainer.policy, self.precision):
            return self.gap(groups_P)

    def _require(self, gap: float, occasion: str, factor: float) -> None:
        limit = min(factor * self.floor, CEILING[self.precision.coarsest])
        if not gap <= limit:
            raise UserError(
                f"sync: {occasion} the engine samples from other weights than the trainer holds: "
                f"mean |log π − log μ| is {gap:.2g}, the noise floor {self.floor:.2g}; some weight "
                f"did not reach the engine. The last checkpoint is sound. Please report the "
                f'model\'s architecture; engine = "transformers" avoids the engine at fault'
            )

    def _set_floor(self, gap: float) -> None:
        kind = self.precision.coarsest
        if not gap <= CEILING[kind]:
            raise UserError(
                f"sync: before any training the engine and the trainer already disagree: mean "
                f"|log π − log μ| is {gap:.2g}, in {kind} at most {CEILING[kind]:.2g} "
                f"is sound; either the sync damages a weight, or the engine does not compute this "
                f'model as transformers does; engine = "transformers" avoids both'
            )
        if math.isnan(self.floor):  # a resumed run keeps the floor it started with
            self.floor = max(gap, LEAST_FLOOR[kind])


class Changed:
    """Changes every weight of a policy in place while open; the exact originals after."""

    def __init__(self, policy: Policy):
        self.shards = [(name, local(weight)) for name, weight in policy.named_weights()]
        self.originals: list[Tensor] = []

    def new(self, name: str, shard: Tensor, index: int) -> Tensor:
        """What a shard is to hold."""
        raise NotImplementedError

    def __enter__(self) -> None:
        self.originals = [shard.to("cpu", copy=True) for _, shard in self.shards]
        for i, (name, shard) in enumerate(self.shards):
            shard.copy_(self.new(name, shard, i))

    def __exit__(self, *failure: object) -> None:
        for (_, shard), original in zip(self.shards, self.originals, strict=True):
            shard.copy_(original)


class Disturbed(Changed):
    """Every weight scaled by 1 ± `REHEARSAL_SCALE` · noise."""

    def __init__(self, policy: Policy, seed: int):
        super().__init__(policy)
        self.seed = seed

    def new(self, name: str, shard: Tensor, index: int) -> Tensor:
        """See `Changed.new`."""
        noise = torch.Generator(shard.device).manual_seed(self.seed + index)
        random = torch.randn(shard.shape, generator=noise, device=shard.device)
        return shard * (1 + REHEARSAL_SCALE * random)


class Rounded(Changed):
    """Every weight as the engine is to have it: FSDP cuts rows, rounding scales each by itself."""

    def __init__(self, policy: Policy, precision: Precision):
        super().__init__(policy)
        self.rounding = precision.rounding
        if self.rounding is None:
            self.shards = []

    def new(self, name: str, shard: Tensor, index: int) -> Tensor:
        """See `Changed.new`."""
        assert self.rounding is not None
        return round_weight(name, shard, self.rounding)
