"""One training phase: several optimizer updates over the disjoint mini-batches of a rollout.

An objective returns the loss of each token; `reduction` says what each counts, so that their sum
over micro-batches and ranks is the loss of the update, however the batch was cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from drpo_cli.dist import World, full
from drpo_cli.settings import ObjectiveSettings, TrainSettings
from drpo_cli.trainer import terms
from drpo_cli.trainer.batches import microbatches, replay
from drpo_cli.trainer.critic import Critic
from drpo_cli.trainer.model import Policy, sync_gradients
from drpo_cli.trainer.pack import Packed, Sample, pack
from drpo_cli.trainer.reduction import scales
from drpo_cli.trainer.stats import TokenStats
from drpo_cli.trainer.terms import Reference
from drpo_cli.types import TokenLoss, Tokens


@dataclass(frozen=True)
class Objective:
    """The loss of an objective plugin, with its options."""

    loss: Callable[[Any, Tokens], TokenLoss]
    config: ObjectiveSettings


class Trainer:
    """Holds the sharded policy, its optimizer and its schedule; reference and critic if any."""

    def __init__(
        self,
        policy: Policy,
        optimizer: tuple[AdamW, LambdaLR],
        objective: Objective,
        settings: TrainSettings,
        world: World,
        reference: Reference | None = None,
        critic: Critic | None = None,
    ):
        self.policy = policy
        self.optimizer, self.schedule = optimizer
        self.objective = objective
        self.settings = settings
        self.world = world
        self.reference = reference
        self.critic = critic

    def step(self, samples: Sequence[Sample]) -> dict[str, float]:
        """All updates over this rank's samples; returns metrics, equal on every rank.

        See `TrainSettings.minibatches` for which sample belongs to which update.
        """
        updates = self.settings.updates_per_rollout
        stats = TokenStats(self.world)
        prepared, metrics = self._prepared(samples)
        first, run = self.world.rank * len(samples), self._run(samples)
        reports = []
        for update in range(updates):
            part = [s for i, s in enumerate(prepared, first) if i // run % updates == update]
            reports.append(self._update([s for s in part if s.kept], stats))
        done = [report for report in reports if report is not None]
        keys = ("loss", "grad_norm", *(("value_loss",) if self.critic else ()))
        return {
            **metrics,
            **{key: _mean([report[key] for report in done]) for key in keys},
            "skipped_updates": float(updates - len(done)),
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            **stats.summary(),
        }

    def replay(self, samples: Sequence[Sample]) -> list[Tensor]:
        """log π of each sample's response tokens under the current weights, on the CPU."""
        return replay(self.policy, samples, self.settings.tokens_per_microbatch, self.world)

    def _run(self, samples: Sequence[Sample]) -> int:
        """How many neighbouring samples belong to one update: divides groups and mini-batches."""
        if self.settings.minibatches == "spread":
            return 1
        groups = [len(list(same)) for _, same in groupby(samples, lambda s: s.prompt_ids)]
        return math.gcd(len(samples) // self.settings.updates_per_rollout, *groups) or 1

    def _prepared(self, samples: Sequence[Sample]) -> tuple[list[Sample], dict[str, float]]:
        """Samples with all that is computed once a step, and what is to be told of it."""
        prepared, metrics = list(samples), {}
        if self.settings.anchor == "trainer":
            logps = self.replay(prepared)
            prepared = terms.anchored(prepared, logps, self.settings.importance_cap)
        if self.reference is not None:
            budget = self.settings.tokens_per_microbatch
            ref_logps = replay(self.reference.policy, prepared, budget, self.world)
            metrics["reference_kl"] = terms.mean_divergence(prepared, ref_logps, self.world)
            prepared = terms.near_reference(prepared, ref_logps, self.reference.settings)
        if self.critic is not None:
            learned = [sample for sample in prepared if sample.kept]
            metrics["explained_variance"] = self.critic.explained_variance(learned)
        return prepared, metrics

    def _update(self, samples: Sequence[Sample], stats: TokenStats) -> dict[str, float] | None:
        """One optimizer update; None when it was skipped: no token, or something not finite."""
        factors = scales(samples, self.settings, self.world)
        report = None if factors is None else self._descend(samples, factors, stats)
        self.schedule.step()
        return report

    def _descend(
        self, samples: Sequence[Sample], factors: Sequence[float], stats: TokenStats
    ) -> dict[str, float] | None:
        budget, token_cost = self.settings.tokens_per_microbatch, self.policy.token_cost
        parts = microbatches(samples, budget, self.world, token_cost)
        loss = 0.0
        for i, part in enumerate(parts):
            sync_gradients(self.policy, i == len(parts) - 1)
            chosen = [samples[j] for j in part], [factors[j] for j in part]
            packed = pack(chosen[0], self.world.device, chosen[1], token_cost)
            loss += self._backward(packed, stats)
        loss = self.world.sum([loss])[0]
        norm = full(clip_grad_norm_(self.policy.parameters(), self.settings.max_gradient_norm))
        report = {"loss": loss, "grad_norm": norm.item()}
        if self.critic is not None:
            value_loss = self.critic.update(samples)
            report["value_loss"] = math.nan if value_loss is None else value_loss
        finite = all(math.isfinite(value) for value in report.values())
        if finite and not self._warming_up():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return report if finite else None

    def _backward(self, packed: Packed, stats: TokenStats) -> float:
        outputs = self.policy(packed)
        seen = Tokens(outputs[0], packed.old_logp_R, packed.adv_R, packed.response_R)
        objective = self.objective.loss(self.objective.config, seen)
        reference = None if self.reference is None else self.reference.settings
        bonus = self.settings.entropy_bonus
        loss_R = terms.with_terms(objective.per_token_T, packed, outputs, reference, bonus)
        loss = (loss_R * packed.scale_R).sum()
        # FSDP averages gradients over ranks; the sum wanted here is over all ranks' tokens.
        (loss * self.world.size).backward()
        stats.add(seen, outputs[1], objective.metrics)
        return float(loss.detach())

    def _warming_up(self) -> bool:
        """Whether only the critic learns yet. The schedule counts the updates of every step."""
        steps = 0 if self.critic is None else self.critic.settings.warmup_steps
        return self.schedule.last_epoch < steps * self.settings.updates_per_rollout


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
