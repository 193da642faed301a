"""One training phase: several optimizer updates over the disjoint mini-batches of a rollout.

Masking, reduction and the global token count live here and nowhere else: an objective returns
the loss of each token, this file takes their mean over all response tokens of a mini-batch, over
micro-batches and ranks alike, so the result does not depend on how the batch was cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from drpo_cli.dist import World, full
from drpo_cli.settings import ObjectiveSettings, TrainSettings
from drpo_cli.trainer.model import Policy, reshard, sync_gradients
from drpo_cli.trainer.pack import Packed, Sample, bins, pack
from drpo_cli.trainer.stats import TokenStats
from drpo_cli.types import Tokens


@dataclass(frozen=True)
class Objective:
    """An objective plugin with its options."""

    module: ModuleType
    config: ObjectiveSettings


class Trainer:
    """Holds the sharded policy, its optimizer and its schedule."""

    def __init__(
        self,
        policy: Policy,
        optimizer: tuple[AdamW, LambdaLR],
        objective: Objective,
        settings: TrainSettings,
        world: World,
    ):
        self.policy = policy
        self.optimizer, self.schedule = optimizer
        self.objective = objective
        self.settings = settings
        self.world = world

    def step(self, samples: Sequence[Sample]) -> dict[str, float]:
        """All updates over this rank's samples; returns metrics, equal on every rank.

        Sample i of the rollout (counted over ranks) belongs to update i mod `updates_per_rollout`,
        so each update sees every prompt whose group is large enough.
        """
        updates = self.settings.updates_per_rollout
        first = self.world.rank * len(samples)
        stats = TokenStats(self.world)
        reports = [
            self._update([s for i, s in enumerate(samples, first) if i % updates == update], stats)
            for update in range(updates)
        ]
        done = [report for report in reports if report is not None]
        return {
            **{key: _mean([report[key] for report in done]) for key in ("loss", "grad_norm")},
            "skipped_updates": float(updates - len(done)),
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            **stats.summary(),
        }

    @torch.no_grad()
    def replay(self, samples: Sequence[Sample]) -> Tensor:
        """log π of the samples' response tokens under the current weights, [R] on the CPU."""
        parts = self._microbatches(samples)
        replayed = [(part, self.policy(self._pack(samples, part))[0].cpu()) for part in parts]
        reshard(self.policy)
        by_sample: dict[int, Tensor] = {}
        for part, logp_R in replayed:
            sizes = [len(samples[i].response_ids) for i in part]
            by_sample.update(zip(part, logp_R.split(sizes) if part else (), strict=True))
        return torch.cat([by_sample[i] for i in range(len(samples))] or [torch.empty(0)])

    def _update(self, samples: Sequence[Sample], stats: TokenStats) -> dict[str, float] | None:
        """One optimizer update; None when it was skipped because something was not finite."""
        tokens = self.world.sum([sum(len(s.response_ids) for s in samples)])[0]
        parts = self._microbatches(samples)
        loss = 0.0
        for i, part in enumerate(parts):
            sync_gradients(self.policy, i == len(parts) - 1)
            loss += self._backward(self._pack(samples, part), tokens, stats)
        loss = self.world.sum([loss])[0]
        norm = clip_grad_norm_(self.policy.parameters(), self.settings.max_gradient_norm)
        norm_value = full(norm).item()
        finite = math.isfinite(loss) and math.isfinite(norm_value)
        if finite:
            self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": loss, "grad_norm": norm_value} if finite else None

    def _backward(self, packed: Packed, tokens: float, stats: TokenStats) -> float:
        logp_R, entropy_R = self.policy(packed)
        seen = Tokens(logp_R, packed.old_logp_R, packed.adv_R)
        loss = self.objective.module.loss(self.objective.config, seen)
        total = loss.per_token_T.sum() / tokens
        # FSDP averages gradients over ranks; the mean wanted here is over all ranks' tokens.
        (total * self.world.size).backward()
        stats.add(seen, entropy_R, loss.metrics)
        return float(total.detach())

    def _microbatches(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Every rank runs the same number of passes, as FSDP's collectives require."""
        lengths, budget = [s.input_length for s in samples], self.settings.tokens_per_microbatch
        needed = int(self.world.max([len(bins(lengths, budget))])[0])
        return bins(lengths, budget, at_least=max(1, needed))

    def _pack(self, samples: Sequence[Sample], part: Sequence[int]) -> Packed:
        return pack([samples[i] for i in part], self.world.device)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
