"""The training phase: several optimizer updates over disjoint mini-batches of an experience.

An objective returns the loss of each token; `reduction` gives the factor of each, so that their sum
over micro-batches and ranks is the loss of the update, however the batch is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.settings import ObjectiveSettings, TrainSettings
from drpo_cli.trainer import terms
from drpo_cli.trainer.balance import balance
from drpo_cli.trainer.batches import microbatches, replay
from drpo_cli.trainer.critic import Critic
from drpo_cli.trainer.loading import sync_gradients
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.offload import Offload
from drpo_cli.trainer.optim import clip_gradients
from drpo_cli.trainer.pack import Packed, pack
from drpo_cli.trainer.reduction import scales
from drpo_cli.trainer.remote_teacher import RemoteTeacher
from drpo_cli.trainer.routing import Routing
from drpo_cli.trainer.stats import TokenStats
from drpo_cli.trainer.terms import Reference, Teacher
from drpo_cli.types import TokenLoss, Tokens


@dataclass(frozen=True)
class Objective:
    """The loss of an objective plugin, with its options."""

    loss: Callable[[Any, Tokens], TokenLoss]
    config: ObjectiveSettings


class Trainer:
    """The sharded policy, its optimizer and its schedule; reference, teacher and critic if any."""

    def __init__(
        self,
        policy: Policy,
        optimizer: tuple[AdamW, LambdaLR],
        objective: Objective,
        settings: TrainSettings,
        world: World,
        reference: Reference | None = None,
        critic: Critic | None = None,
        routing: Routing | None = None,
        teacher: Teacher | RemoteTeacher | None = None,
    ):
        self.policy = policy
        self.optimizer, self.schedule = optimizer
        self.objective = objective
        self.settings = settings
        self.world = world
        self.reference = reference
        self.teacher = teacher
        self.critic = critic
        self.routing = routing
        optimizers = [self.optimizer, *([critic.optimizer] if critic else [])]
        offloads = settings.offload == "optimizer"
        self.moments = Offload(optimizers if offloads else [], world.device)

    def step(self, exp: Experience) -> dict[str, Any]:
        """All updates over all ranks' rows; returns metrics, equal on every rank. Collective.

        `TrainSettings.minibatches` says which row belongs to which update; `balance` spreads the
        rows of an update over the ranks.
        """
        budget, costs = self.settings.tokens_per_microbatch, self.policy.costs
        exp = self.replay_once(balance(self._divide(exp), budget, costs, self.world))
        metrics = self._describe(exp)
        stats = TokenStats(self.world)
        with self.moments:  # on the device while there are updates
            reports = [self._update(exp.take(rows), stats) for rows in self._rows_of_updates(exp)]
        done = [report for report in reports if report is not None]
        keys = ("loss", "grad_norm", *(("value_loss",) if self.critic else ()))
        return {
            **metrics,
            **{key: _mean([report[key] for report in done]) for key in keys},
            "skipped_updates": float(len(reports) - len(done)),
            "tokens_without_mu": self.world.sum([int((exp.logp_mu_T == -math.inf).sum())])[0],
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            **stats.summary(),
            **(self.routing.metrics(self.world) if self.routing else {}),
        }

    def close(self) -> None:
        """Ends the connections to a teacher behind an endpoint."""
        if isinstance(self.teacher, RemoteTeacher):
            self.teacher.close()

    def replay(self, exp: Experience) -> torch.Tensor:
        """log π of every response token under the current weights: [T], float32, on the CPU.

        Collective.
        """
        return replay(self.policy, exp, self.settings.tokens_per_microbatch, self.world)

    def replay_once(self, exp: Experience) -> Experience:
        """Adds what is replayed once per step and not there yet: log π_old, log π_ref, a teacher's.

        Collective.
        """
        if self.settings.anchor == "trainer" and exp.anchor_logp_T is None:
            exp = terms.with_anchor(exp, self.replay(exp), self.settings.importance_cap)
        budget = self.settings.tokens_per_microbatch
        alone = exp.without_experts()  # other models, whose routers choose by themselves
        if self.reference is not None and exp.ref_logp_T is None:
            exp = replace(exp, ref_logp_T=self.reference.replay(alone, budget, self.world))
        if self.teacher is not None and exp.teacher_logp_T is None:
            exp = replace(exp, teacher_logp_T=self.teacher.replay(alone, budget, self.world))
        return exp

    def _describe(self, exp: Experience) -> dict[str, float]:
        """Metrics of what is known before the first update. Collective."""
        metrics = {}
        if exp.ref_logp_T is not None:
            metrics["reference_kl"] = terms.mean_divergence(exp, exp.ref_logp_T, self.world)
        if exp.teacher_logp_T is not None:
            metrics["teacher_kl"] = terms.mean_divergence(exp, exp.teacher_logp_T, self.world)
        if isinstance(self.teacher, RemoteTeacher):
            metrics |= self.teacher.metrics(self.world)
        if self.critic is not None:
            metrics["explained_variance"] = self.critic.explained_variance(exp)
        return metrics

    def _divide(self, exp: Experience) -> Experience:
        """Gives all rows of an episode the same update, and says how many tokens count in it.

        Episodes are counted over all ranks.
        """
        place_S = exp.place_in_episodes
        counted_E = exp.sum_by_episode(exp.loss_tokens_S)
        episode_S = self.world.rank * len(counted_E) + place_S
        update_S = episode_S // self._episodes_together(exp) % self.settings.updates_per_rollout
        return replace(exp, update_S=update_S, counted_S=counted_E[place_S])

    def _rows_of_updates(self, exp: Experience) -> list[list[int]]:
        """This rank's rows of each update that have a loss."""
        has_loss_S = exp.loss_tokens_S > 0
        updates = range(self.settings.updates_per_rollout)
        return [torch.where(has_loss_S & (exp.update_S == u))[0].tolist() for u in updates]

    def _episodes_together(self, exp: Experience) -> int:
        """How many neighbours belong to one update: divides groups and mini-batches."""
        if self.settings.minibatches == "spread":
            return 1
        group_E = exp.group_S[exp.first_E]
        groups = torch.bincount(group_E).tolist()
        return math.gcd(len(group_E) // self.settings.updates_per_rollout, *groups) or 1

    def _update(self, exp: Experience, stats: TokenStats) -> dict[str, float] | None:
        """One optimizer update; None if it was skipped: no token, or something not finite."""
        factors = scales(exp, self.settings, self.world)
        report = None if factors is None else self._descend(exp, factors, stats)
        self.schedule.step()
        return report

    def _descend(
        self, exp: Experience, factors: Sequence[float], stats: TokenStats
    ) -> dict[str, float] | None:
        budget, costs = self.settings.tokens_per_microbatch, self.policy.costs
        parts = microbatches(exp, budget, self.world, costs)
        loss = 0.0
        for i, rows in enumerate(parts):
            sync_gradients(self.policy, self.settings, last=i == len(parts) - 1)
            scale_S = [factors[row] for row in rows]
            packed = pack(exp.take(rows), self.world.device, scale_S, costs)
            loss += self._backward(packed, stats)
        loss = self.world.sum([loss])[0]
        norm = clip_gradients(self.policy.parameters(), self.settings.max_gradient_norm)
        report = {"loss": loss, "grad_norm": norm}
        if self.critic is not None:
            value_loss = self.critic.update(exp)
            report["value_loss"] = math.nan if value_loss is None else value_loss
        finite = all(math.isfinite(value) for value in report.values())
        if finite and not self._warming_up():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return report if finite else None

    def _backward(self, packed: Packed, stats: TokenStats) -> float:
        outputs = self.policy(packed)
        tokens = Tokens(outputs[0], packed.old_logp_T, packed.adv_T, packed.response_T)
        objective = self.objective.loss(self.objective.config, tokens)
        reference = None if self.reference is None else self.reference.settings
        bonus = self.settings.entropy_bonus
        loss_T = terms.with_terms(objective.per_token_T, packed, outputs, reference, bonus)
        loss = (loss_T * packed.scale_T).sum()
        # FSDP averages gradients over ranks; the loss is a sum over the tokens of all ranks.
        torch.autograd.backward(loss * self.world.size)
        stats.add(tokens, outputs[1], objective.metrics)
        return float(loss.detach())

    def _warming_up(self) -> bool:
        """Whether only the critic learns so far. The schedule counts the updates of every step."""
        steps = 0 if self.critic is None else self.critic.settings.warmup_steps
        return self.schedule.last_epoch < steps * self.settings.updates_per_rollout


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
