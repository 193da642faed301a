"""Proves that the weights of a sync arrive in the rollout engine.

A sync can go wrong without an error: a tied head keeps its old copy, experts are not packed again,
a tensor is lost. The engine then samples from another policy than the one that is trained, and
only the log-probs show it, as differences log π − log μ. Rounding gives differences too, and how
large they are depends on the text, so no fixed limit can tell the two apart. Two things can:

- *Noise*: the trainer replays the same tokens with weights that are rounded anew. The *gap*, mean
  |log π − log μ|, must be within a small multiple of what that changes.
- *Staleness*: in a rehearsal before the start, every weight is disturbed at random and pushed. If
  the engine has a tensor's disturbance, the differences do not depend on its signs; if not, their
  gradient points back to the undisturbed tensor (`Disturbed.staleness`), whose name is then known.

The exact weights are pushed after the rehearsal. After every later push, a group of the next
rollouts is replayed before the step learns from it; after the last push, a few responses that are
sampled for the purpose. Whatever looks wrong is looked at again with more text before it counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from drpo_cli.errors import UserError
from drpo_cli.experience import Experience
from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.protocol import Sampling, derive_seed, sample_groups
from drpo_cli.step.changed import Disturbed, Jittered, Rounded
from drpo_cli.step.sample import PROBE_PROMPTS, probe_sampling
from drpo_cli.step.sync import WeightSync
from drpo_cli.trainer.batches import add_gradient
from drpo_cli.types import Group, Prompt

if TYPE_CHECKING:
    from drpo_cli.step.run import Run


@dataclass(frozen=True)
class Limits:
    """What is sound on one kind of device in one dtype; all but `unit` in nats per token.

    unit     the rounding of the format in which products are computed, relative to a number
    least    a gap that is never suspicious
    ceiling  the gap of a sound pair is smaller, on any text of the model itself
    """

    unit: float
    least: float
    ceiling: float


# Measured on CPUs (docs/internals.md). Assumed on GPUs, where vLLM multiplies float32 in TF32,
# which has 10 bits of mantissa: that alone moved a 270 M model by 4.6e-4 nats.
LIMITS = {
    ("cpu", "float32"): Limits(unit=2.0**-24, least=1e-5, ceiling=1e-3),
    ("cpu", "bfloat16"): Limits(unit=2.0**-8, least=5e-3, ceiling=0.15),
    ("cpu", "int8"): Limits(unit=2.0**-7, least=1e-2, ceiling=0.3),
    ("cpu", "fp8"): Limits(unit=2.0**-5, least=2e-2, ceiling=0.5),
    ("cuda", "float32"): Limits(unit=2.0**-11, least=1e-4, ceiling=1e-2),
    ("cuda", "bfloat16"): Limits(unit=2.0**-8, least=5e-3, ceiling=0.15),
    ("cuda", "int8"): Limits(unit=2.0**-7, least=1e-2, ceiling=0.3),
    ("cuda", "fp8"): Limits(unit=2.0**-5, least=2e-2, ceiling=0.5),
}
LEAST_FLOOR = {"float32": 2e-6, "bfloat16": 5e-3, "int8": 1e-2, "fp8": 2e-2}
SUSPECT, STOP = 3.0, 5.0  # a gap in units of what is usual: look again; stop the run
LEAST_USUAL = 0.5  # the usual gap of a pair in units of the noise; measured: 0.1 to 1
CHEAP = 2.0  # up to this many times the floor, the noise of a step's text is not measured
AGAIN = 4  # times as many responses in a further look
REHEARSALS = 4  # at most; more than one only where something looks wrong
SUSPECT_CHANCE, STALE_CHANCE = 0.1, 1e-6  # that a sound push has a tensor as stale as this


@dataclass(frozen=True)
class Look:
    """What one replay of sampled text shows.

    gap        mean |log π − log μ| to weights that are rounded as the engine's are
    noise      mean |Δ log π| of the same tokens when weights are rounded anew, if measured
    staleness  of each weight, in a rehearsal: see `Disturbed.staleness`
    """

    gap: float
    noise: float | None = None
    staleness: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stalest:
    """The weight that looks most as if it had not arrived, by all rehearsals so far.

    times   its staleness, in standard deviations
    chance  that any of so many weights is as stale although all arrived
    """

    name: str = ""
    times: float = 0.0
    chance: float = 1.0

    @classmethod
    def of(cls, looks: Sequence[Look]) -> Stalest:
        """Adds up independent rehearsals: a sum of normal variables, over its deviation."""
        found = looks[0].staleness
        total = {name: sum(look.staleness[name] for look in looks) for name in found}
        if not total:
            return cls()
        name = max(total, key=lambda name: total[name])
        times = total[name] / math.sqrt(len(looks))
        return cls(name, times, len(total) * NormalDist().cdf(-times))


def prove_sync(r: Run) -> None:
    """Rehearses the sync, pushes the weights that the run starts from, sets the noise floor."""
    r.say("proving the weight sync …")
    prompts_P = r.data.held_out[:PROBE_PROMPTS]
    r.proof.prove(r.done, prompts_P, probe_sampling(r.spec, r.world.rank))


def check_sync(r: Run, groups_P: Sequence[Group]) -> float:
    """Replays one group: did the weights of the last push really sample it? The gap it leaves.

    If it looks wrong, that is put on record, and all groups are replayed before the run is stopped.
    """
    return r.proof.check(groups_P[:1], f"after sync {r.sync.version}", lambda: groups_P, r.say)


def push(r: Run, step: int) -> None:
    """Brings the step's weights into the engine; the last ones are checked at once.

    Earlier ones are checked on what the next step samples, before it learns anything.
    """
    r.sync.push(version=step)
    if step == r.spec.run.steps:
        prompts_P = r.data.held_out[:PROBE_PROMPTS]
        sampling = probe_sampling(r.spec, r.world.rank)
        r.proof.check(
            sample_groups(r.engine, prompts_P, sampling),
            f"after sync {step}",
            lambda: sample_groups(r.engine, prompts_P, more(sampling)),
            r.say,
        )


def more(sampling: Sampling, look: int = 1) -> Sampling:
    """The sampling of a further look, the first of which is 1."""
    return replace(
        sampling, samples=AGAIN * sampling.samples, seed=derive_seed(sampling.seed, "look", look)
    )


def _compared(groups_P: Sequence[Group]) -> Experience:
    """What is replayed: without the engine's experts, whose choice is what its routers show."""
    return Experience.of(groups_P).without_experts()


class Proof:
    """Judges by log-probs whether an engine has the weights that were pushed.

    floor  the gap at the start of the run, and at least `LEAST_FLOOR`
    noise  the rounding noise of the newest text that it was measured on
    """

    def __init__(self, sync: WeightSync):
        self.sync = sync
        self.trainer = sync.trainer
        self.engine = sync.engine
        self.precision = sync.precision
        self.quantised: frozenset[str] = getattr(sync.engine, "quantised", frozenset())
        self.limits = LIMITS[sync.trainer.world.device.type, sync.precision.coarsest]
        self.floor = math.nan
        self.noise: float | None = None
        self._warned = False
        self._usual = LEAST_USUAL  # the gap of this pair in units of the noise

    def prove(self, version: int, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        """Rehearses the sync, then pushes `version` and measures its noise floor. Collective.

        Raises UserError if the engine computes another model than the trainer, or if a weight does
        not reach it.
        """
        looks = [self._rehearse(version, prompts, sampling)]
        self.sync.push(version)
        self._set_floor(self._look(sample_groups(self.engine, prompts, sampling)))
        while len(looks) < REHEARSALS and self._is_unclear(looks):
            looks.append(self._rehearse(version, prompts, more(sampling, len(looks))))
        self._require(looks[-1], "in the rehearsal", SUSPECT, Stalest.of(looks))
        if len(looks) > 1:
            self.sync.push(version)

    def check(
        self,
        groups_P: Sequence[Group],
        occasion: str,
        more: Callable[[], Sequence[Group]] | None = None,
        say: Callable[[str], object] = lambda text: None,
    ) -> float:
        """The gap over groups sampled since the last push; UserError if a weight is missing.

        `say` hears of a gap that rounding hardly explains, once until it is sound again. Then the
        gap of `more` groups counts, and ends the run if rounding cannot explain it. Collective.
        """
        look = self._look(groups_P, cheap=CHEAP * self.floor)
        suspicious = self._exceeds(look, SUSPECT)
        if suspicious:
            if not self._warned:
                say(f"warning: sync: {occasion} {self._measured(look)}; replaying more responses")
            groups_P = groups_P if more is None else more()
            look = self._look(groups_P)
            self._require(look, occasion, STOP)
        self._warned, self.noise = suspicious, look.noise
        return self.gap(groups_P) if self.precision.rounds else look.gap

    def gap(self, groups_P: Sequence[Group]) -> float:
        """Mean |log π − log μ| over the sampled tokens of all ranks, log π replayed now.

        Collective.
        """
        exp = _compared(groups_P)
        return self._mean(self.trainer.replay(exp) - exp.logp_mu_T, exp)

    def _mean(self, difference_T: Tensor, exp: Experience) -> float:
        masked_T = difference_T.double().abs()[exp.loss_mask_T]
        total, count = self.trainer.world.sum([float(masked_T.sum()), len(masked_T)])
        return total / max(1.0, count)

    def _rehearse(self, version: int, prompts: Sequence[Prompt], sampling: Sampling) -> Look:
        seed = int(self.trainer.world.max([sampling.seed])[0])  # the same on every rank
        with Disturbed(self.trainer.policy, seed) as disturbed:
            self.sync.push(version)
            groups_P = sample_groups(self.engine, prompts, sampling)
            self.engine.sleep()  # gradients need the room
            return self._look(groups_P, disturbed=disturbed)

    def _is_unclear(self, looks: Sequence[Look]) -> bool:
        """Whether something looks wrong, but not beyond doubt: one look is never enough."""
        chance = Stalest.of(looks).chance
        if len(looks) == 1:
            return chance < SUSPECT_CHANCE or self._exceeds(looks[0], SUSPECT)
        return STALE_CHANCE <= chance < SUSPECT_CHANCE

    def _look(
        self, groups_P: Sequence[Group], cheap: float = -1.0, disturbed: Disturbed | None = None
    ) -> Look:
        """Replays groups; no more than that if the gap is at most `cheap`.

        The gap that the engine's own rounding of weights causes depends on the weights, and grows
        in training by more than a lost weight causes. Against equally rounded weights it does not
        count.
        """
        exp, trainer = _compared(groups_P), self.trainer
        with Rounded(trainer.policy, self.precision, self.quantised):
            logp_T = trainer.replay(exp)
            difference_T = logp_T - exp.logp_mu_T
            counts = [int(exp.sampled_T.sum()), int(exp.loss_mask_T.sum())]
            sampled, compared = self.trainer.world.sum(counts)
            hopeless = sampled and not compared  # no token that was sampled has a probability
            look = Look(math.inf if hopeless else self._mean(difference_T, exp))
            if look.gap <= cheap:
                return look
            if disturbed is not None:
                routed = Experience.of(groups_P)  # other experts would be noise in every gradient
                if routed.experts_S is not None:
                    difference_T = trainer.replay(routed) - routed.logp_mu_T
                look = replace(look, staleness=self._staleness(routed, difference_T, disturbed))
            with Jittered(trainer.policy, derive_seed("jitter"), self.limits.unit):
                return replace(look, noise=self._mean(trainer.replay(exp) - logp_T, exp))

    def _staleness(
        self, exp: Experience, difference_T: Tensor, disturbed: Disturbed
    ) -> dict[str, float]:
        policy, world = self.trainer.policy, self.trainer.world
        weight_T = difference_T.where(exp.loss_mask_T, torch.zeros_like(difference_T))
        add_gradient(policy, exp, weight_T, self.trainer.settings, world)
        found = disturbed.staleness(world)
        self.trainer.optimizer.zero_grad(set_to_none=True)
        return found

    def _explained(self, look: Look) -> float:
        """The part of a gap that rounding usually gives on this text."""
        return self._usual * (look.noise or 0.0)

    def _exceeds(self, look: Look, factor: float) -> bool:
        if look.noise is None:  # the gap was too small to ask
            return False
        return not look.gap <= factor * self._explained(look) + self.limits.least

    def _require(
        self, look: Look, occasion: str, factor: float, stalest: Stalest | None = None
    ) -> None:
        is_stale = stalest is not None and stalest.chance < STALE_CHANCE
        if not is_stale and not self._exceeds(look, factor):
            return
        which = stalest.name if stalest is not None and is_stale else "some weight"
        raise UserError(
            f"sync: {occasion} the engine samples from other weights than the trainer holds: "
            f"{self._measured(look)}; {which} did not reach the engine. The last checkpoint is "
            f"sound. Please report the model's architecture",
            self._other_engine(),
        )

    def _measured(self, look: Look) -> str:
        explained = f"{self._explained(look):.2g}"
        return (
            f"mean |log π − log μ| is {look.gap:.2g}, of which rounding explains about {explained}"
        )

    def _set_floor(self, look: Look) -> None:
        kind, device = self.precision.coarsest, self.trainer.world.device.type
        if not look.gap <= self.limits.ceiling:
            raise UserError(
                f"sync: before any training the engine and the trainer already disagree: mean "
                f"|log π − log μ| is {look.gap:.2g}, in {kind} on a {device} at most "
                f"{self.limits.ceiling:.2g} is sound; either the sync damages a weight, or the "
                f"engine does not compute this model as the trainer does. Please report the "
                f"model's architecture",
                self._other_engine(),
            )
        if look.noise:
            self._usual = max(LEAST_USUAL, look.gap / look.noise)
        if math.isnan(self.floor):  # a resumed run keeps the floor it started with
            self.floor = max(look.gap, LEAST_FLOOR[kind])

    def _other_engine(self) -> str:
        """Advice to use the engine that computes as the trainer does, if it is not in use."""
        if isinstance(self.engine, transformers.Engine):
            return ""
        return 'rollout.engine = "transformers" avoids this engine'
