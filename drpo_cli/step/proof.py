"""Proves that the weights of a sync arrive in the rollout engine.

A sync can go wrong without an error: a tied head keeps its old copy, experts are not packed again,
a tensor is lost. The engine then samples from another policy than the one that is trained, and
only the log-probs show it. So the *gap*, mean |log π − log μ|, is measured:

- At the start, a *rehearsal*: every weight is disturbed and pushed, and the engine's log μ of what
  it then samples is compared with the trainer's log π. A tensor that does not arrive shows at once.
- Then the real weights are pushed, and the gap measured again. That is the noise floor of this
  engine, model and dtype.
- After every later push, a group of the next rollouts is replayed before the step learns from it;
  after the last push, a few responses that are sampled for the purpose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from drpo_cli.dist import local
from drpo_cli.errors import UserError
from drpo_cli.experience import Experience
from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.precision import Precision, round_weight
from drpo_cli.rollout.engine.protocol import Sampling, derive_seed, sample_groups
from drpo_cli.step.sample import PROBE_PROMPTS, probe_sampling
from drpo_cli.step.sync import WeightSync
from drpo_cli.trainer.model import Policy
from drpo_cli.types import Group, Prompt

if TYPE_CHECKING:
    from drpo_cli.step.run import Run

REHEARSAL_SCALE = 0.1  # the relative change of each weight
CEILING = {
    "float32": 1e-3,
    "bfloat16": 0.15,
}  # the gap of a sound pair is smaller
FLOOR_FACTOR = 10.0  # a later gap may be this many times the floor: sampling noise
# The rehearsal's limit is tighter: in bfloat16 a lost matrix may give only 4 times the floor.
REHEARSAL_FACTOR = 3.0
LEAST_FLOOR = {"float32": 2e-6, "bfloat16": 5e-3}


def prove_sync(r: Run) -> None:
    """Rehearses the sync, pushes the weights that the run starts from, sets the noise floor."""
    r.say("proving the weight sync …")
    prompts_P = r.data.held_out[:PROBE_PROMPTS]
    r.proof.prove(r.done, prompts_P, probe_sampling(r.spec, r.world.rank))


def check_sync(r: Run, groups_P: Sequence[Group]) -> float:
    """Replays one group: did the weights of the last push really sample it? The gap it leaves."""
    return r.proof.check(groups_P[:1], f"after sync {r.sync.version}")


def push(r: Run, step: int) -> None:
    """Brings the step's weights into the engine; the last ones are checked at once.

    Earlier ones are checked on what the next step samples, before it learns anything.
    """
    r.sync.push(version=step)
    if step == r.spec.run.steps:
        prompts_P = r.data.held_out[:PROBE_PROMPTS]
        groups_P = sample_groups(r.engine, prompts_P, probe_sampling(r.spec, r.world.rank))
        r.proof.check(groups_P, f"after sync {step}")


class Proof:
    """Measures the gap that a sync leaves, and refuses one that is too large."""

    def __init__(self, sync: WeightSync):
        self.sync = sync
        self.trainer = sync.trainer
        self.engine = sync.engine
        self.precision = sync.precision
        self.floor = math.nan

    def prove(self, version: int, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        """Rehearses the sync, then pushes `version` and measures its noise floor. Collective.

        Raises UserError if the engine computes another model than the trainer, or if a weight does
        not reach it.
        """
        # copies of the weights stay equal: an engine may take its parts from several
        noise = derive_seed("rehearsal", self.trainer.world.shard)
        with Disturbed(self.trainer.policy, noise):
            self.sync.push(version)
            rehearsed = self._beyond_rounding(sample_groups(self.engine, prompts, sampling))
        self.sync.push(version)
        self._set_floor(self._beyond_rounding(sample_groups(self.engine, prompts, sampling)))
        self._require(rehearsed, "in the rehearsal", REHEARSAL_FACTOR)

    def check(self, groups_P: Sequence[Group], occasion: str) -> float:
        """The gap over groups sampled since the last push; UserError if a weight is missing."""
        beyond = self._beyond_rounding(groups_P)
        self._require(beyond, occasion, FLOOR_FACTOR)
        return beyond if self.precision.rounding is None else self.gap(groups_P)

    def gap(self, groups_P: Sequence[Group]) -> float:
        """Mean |log π − log μ| over the sampled tokens of all ranks, log π replayed now.

        Collective.
        """
        exp = Experience.of(groups_P)
        logp_T = self.trainer.replay(exp).double()
        difference_T = (logp_T - exp.logp_mu_T).abs()[exp.loss_mask_T]
        total, count = self.trainer.world.sum([float(difference_T.sum()), len(difference_T)])
        return total / max(1.0, count)

    def _beyond_rounding(self, groups_P: Sequence[Group]) -> float:
        """The gap to the weights as the engine holds them, with the same rounding.

        The gap that rounding causes depends on the weights, and grows in training by more than a
        lost weight causes. Against equally round_weight weights it does not count.
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
                f"model's architecture",
                self._other_engine(),
            )

    def _set_floor(self, gap: float) -> None:
        kind = self.precision.coarsest
        if not gap <= CEILING[kind]:
            raise UserError(
                f"sync: before any training the engine and the trainer already disagree: mean "
                f"|log π − log μ| is {gap:.2g}, in {kind} at most {CEILING[kind]:.2g} "
                f"is sound; either the sync damages a weight, or the engine does not compute this "
                f"model as the trainer does. Please report the model's architecture",
                self._other_engine(),
            )
        if math.isnan(self.floor):  # a resumed run keeps the floor it started with
            self.floor = max(gap, LEAST_FLOOR[kind])

    def _other_engine(self) -> str:
        """Advice to use the engine that computes as the trainer does, if it is not in use."""
        if isinstance(self.engine, transformers.Engine):
            return ""
        return 'rollout.engine = "transformers" avoids this engine'


class Changed:
    """Changes every weight of a policy in place while open; restores the exact originals."""

    def __init__(self, policy: Policy):
        self.shards = [(name, local(weight)) for name, weight in policy.named_weights()]
        self.originals: list[Tensor] = []

    def new(self, name: str, shard: Tensor, index: int) -> Tensor:
        """The changed shard."""
        raise NotImplementedError

    def __enter__(self) -> None:
        self.originals = [shard.to("cpu", copy=True) for _, shard in self.shards]
        for i, (name, shard) in enumerate(self.shards):
            shard.copy_(self.new(name, shard, i))

    def __exit__(self, *failure: object) -> None:
        for (_, shard), original in zip(self.shards, self.originals, strict=True):
            shard.copy_(original)


class Disturbed(Changed):
    """Scales every weight by 1 ± `REHEARSAL_SCALE` · noise."""

    def __init__(self, policy: Policy, seed: int):
        super().__init__(policy)
        self.seed = seed

    def new(self, name: str, shard: Tensor, index: int) -> Tensor:
        """See `Changed.new`."""
        noise = torch.Generator(shard.device).manual_seed(self.seed + index)
        random = torch.randn(shard.shape, generator=noise, device=shard.device)
        return shard * (1 + REHEARSAL_SCALE * random)


class Rounded(Changed):
    """Rounds every weight as the engine has it: FSDP cuts rows, and each row has its own scale."""

    def __init__(self, policy: Policy, precision: Precision):
        super().__init__(policy)
        self.rounding = precision.rounding
        if self.rounding is None:
            self.shards = []

    def new(self, name: str, shard: Tensor, index: int) -> Tensor:
        """See `Changed.new`."""
        assert self.rounding is not None
        return round_weight(name, shard, self.rounding)
