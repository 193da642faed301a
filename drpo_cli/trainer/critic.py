"""The critic of PPO: a value model of its own, sharded and optimised like the policy.

Its loss of one token, with V_old the value before the step and R = A + V_old the return that
generalised advantage estimation gives (arXiv 1506.02438; clipping as in arXiv 2005.12729):

    max((V − R)², (clip(V, V_old − c, V_old + c) − R)²) / 2

taken as the mean over all tokens of an update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from drpo_cli.dist import World, full
from drpo_cli.settings import CriticSettings, TrainSettings
from drpo_cli.trainer.batches import microbatches, replay
from drpo_cli.trainer.model import ValueModel, sync_gradients
from drpo_cli.trainer.pack import Sample, pack

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

    def values(self, samples: Sequence[Sample]) -> list[tuple[float, ...]]:
        """V at each response token of each sample, before the token. Collective."""
        found = replay(self.model, samples, self.train.tokens_per_microbatch, self.world)
        return [tuple(value_R.tolist()) for value_R in found]

    def update(self, samples: Sequence[Sample]) -> float | None:
        """One optimizer update towards the samples' returns: the loss before it. Collective.

        None when there was no token anywhere, or when something was not finite and the update
        was left out.
        """
        tokens = self.world.sum([sum(len(s.response_ids) for s in samples)])[0]
        if not tokens:
            return None
        budget, token_cost = self.train.tokens_per_microbatch, self.model.token_cost
        parts = microbatches(samples, budget, self.world, token_cost)
        total = 0.0
        for i, part in enumerate(parts):
            sync_gradients(self.model, i == len(parts) - 1)
            chosen = [samples[j] for j in part]
            packed = pack(chosen, self.world.device, [1 / tokens] * len(chosen), token_cost)
            assert packed.value_R is not None and packed.return_R is not None
            value_R = self.model(packed)
            clip = self.settings.value_clip
            loss_R = value_loss(value_R, packed.value_R, packed.return_R, clip)
            loss = (loss_R * packed.scale_R).sum()
            (loss * self.world.size).backward()  # FSDP averages over ranks
            total += float(loss.detach())
        total = self.world.sum([total])[0]
        norm = full(clip_grad_norm_(self.model.parameters(), self.train.max_gradient_norm)).item()
        finite = math.isfinite(total) and math.isfinite(norm)
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total if finite else None

    def explained_variance(self, samples: Sequence[Sample]) -> float:
        """1 − Var(R − V) / Var(R) over all tokens: 1 is a perfect critic, 0 a constant one.

        NaN where all returns are equal, up to rounding. Collective.
        """
        return_R = _joined([s.returns for s in samples])
        error_R = return_R - _joined([s.values for s in samples])
        moments = [len(return_R), *(float(m) for x in (return_R, error_R) for m in _sums(x))]
        count, first, second, error, error_square = self.world.sum(moments)
        spread = count * second - first**2
        left = count * error_square - error**2
        return 1 - left / spread if spread > ROUNDING * count * second else math.nan


def value_loss(value_R: Tensor, old_value_R: Tensor, return_R: Tensor, clip: float) -> Tensor:
    """The critic's loss of each token, [R]; `clip` = 0 is the plain squared error."""
    loss_R = (value_R - return_R) ** 2
    if clip:
        clipped_R = old_value_R + (value_R - old_value_R).clamp(-clip, clip)
        loss_R = torch.maximum(loss_R, (clipped_R - return_R) ** 2)
    return loss_R / 2


def whitened(
    adv_SR: Sequence[Sequence[float]], world: World, epsilon: float = 1e-8
) -> list[tuple[float, ...]]:
    """Advantages shifted and scaled to mean 0 and standard deviation 1 over all tokens and ranks.

    Collective.
    """
    adv_R = _joined(adv_SR)
    count, first, second = world.sum([len(adv_R), *(float(m) for m in _sums(adv_R))])
    mean = first / max(1, count)
    std = math.sqrt(max(0.0, second / max(1, count) - mean**2))
    return [tuple((adv - mean) / (std + epsilon) for adv in sample) for sample in adv_SR]


def _sums(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.sum(), (values**2).sum()


def _joined(parts: Sequence[Sequence[float] | None]) -> Tensor:
    values = [value for part in parts for value in part or ()]
    return torch.tensor(values, dtype=torch.float64)
