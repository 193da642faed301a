"""The critic of PPO: a value model of its own, sharded and optimised like the policy.

The loss of one token, with V_old the value before the step and R = A + V_old the return of
generalised advantage estimation (arXiv 1506.02438; clipping as in arXiv 2005.12729):

    max((V − R)², (clip(V, V_old − c, V_old + c) − R)²) / 2

averaged over all tokens of an update that have a value to learn: the sampled ones, or the first of
each turn (`Experience.valued_T`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import AdamW

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.settings import CriticSettings, TrainSettings
from drpo_cli.trainer.balance import replay_evenly
from drpo_cli.trainer.batches import microbatches
from drpo_cli.trainer.loading import sync_gradients
from drpo_cli.trainer.model import ValueModel
from drpo_cli.trainer.optim import clip_gradients
from drpo_cli.trainer.pack import pack

ROUNDING = 1e-12  # share of a sum of squares that float64 cannot tell from 0 after a subtraction


class Critic:
    """Holds the sharded value model and its optimizer."""

    def __init__(
        self,
        model: ValueModel,
        optimizer: AdamW,
        settings: CriticSettings,
        train: TrainSettings,
        world: World,
    ):
        self.model = model
        self.optimizer = optimizer
        self.settings = settings
        self.train = train
        self.world = world

    def values(self, exp: Experience) -> Tensor:
        """V at each sampled token, of the text before it, 0 elsewhere: [T], float64. Collective."""
        return replay_evenly(self.model, exp, self.train.tokens_per_microbatch, self.world).double()

    def update(self, exp: Experience) -> float | None:
        """One optimizer update towards the returns; gives the loss before it. Collective.

        None if no rank has a token with a loss, or if something was not finite and the update was
        skipped.
        """
        exp = replace(exp, loss_mask_T=_learnt(exp))
        tokens = self.world.sum([int(exp.loss_mask_T.sum())])[0]
        if not tokens:
            return None
        budget, costs = self.train.tokens_per_microbatch, self.model.costs
        parts = microbatches(exp, budget, self.world, costs)
        total = 0.0
        for i, rows in enumerate(parts):
            sync_gradients(self.model, self.train, last=i == len(parts) - 1)
            scale_S = [1 / tokens] * len(rows)
            packed = pack(exp.take(rows), self.world.device, scale_S, costs)
            assert packed.value_T is not None and packed.return_T is not None
            value_T = self.model(packed)
            clip = self.settings.value_clip
            loss_T = value_loss(value_T, packed.value_T, packed.return_T, clip)
            loss = (loss_T * packed.scale_T).sum()
            torch.autograd.backward(loss * self.world.size)  # FSDP averages over ranks
            total += float(loss.detach())
        total = self.world.sum([total])[0]
        norm = clip_gradients(self.model.parameters(), self.train.max_gradient_norm)
        finite = math.isfinite(total) and math.isfinite(norm)
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total if finite else None

    def explained_variance(self, exp: Experience) -> float:
        """1 − Var(R − V) / Var(R) over the tokens that it learns from: 1 for a perfect critic.

        0 for a constant one; NaN if all returns are equal, up to rounding. Collective.
        """
        assert exp.value_T is not None and exp.return_T is not None
        learnt_T = _learnt(exp)
        return_T = exp.return_T[learnt_T]
        error_T = return_T - exp.value_T[learnt_T]
        moments = [len(return_T), *(float(m) for x in (return_T, error_T) for m in _sums(x))]
        count, first, second, error, error_square = self.world.sum(moments)
        spread = count * second - first**2
        left = count * error_square - error**2
        return 1 - left / spread if spread > ROUNDING * count * second else math.nan


def value_loss(value_T: Tensor, old_value_T: Tensor, return_T: Tensor, clip: float) -> Tensor:
    """The critic's loss per token, [T]; `clip` = 0 gives half the squared error."""
    loss_T = (value_T - return_T) ** 2
    if clip:
        clipped_T = old_value_T + (value_T - old_value_T).clamp(-clip, clip)
        loss_T = torch.maximum(loss_T, (clipped_T - return_T) ** 2)
    return loss_T / 2


def whiten(adv_T: Tensor, world: World, epsilon: float = 1e-8) -> Tensor:
    """Advantages with mean 0 and standard deviation 1 over the tokens of all ranks, [T], float64.

    Collective.
    """
    count, first, second = world.sum([len(adv_T), *(float(m) for m in _sums(adv_T))])
    mean = first / max(1, count)
    std = math.sqrt(max(0.0, second / max(1, count) - mean**2))
    return (adv_T - mean) / (std + epsilon)


def _learnt(exp: Experience) -> Tensor:
    """The tokens with a loss whose value the critic learns."""
    return exp.loss_mask_T if exp.valued_T is None else exp.loss_mask_T & exp.valued_T


def _sums(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.sum(), (values**2).sum()
