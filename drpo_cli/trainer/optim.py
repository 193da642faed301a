"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from drpo_cli.settings import TrainSettings


def build(policy: nn.Module, settings: TrainSettings, updates: int) -> tuple[AdamW, LambdaLR]:
    """The optimizer over the float32 master weights, and its schedule over `updates` updates."""
    optimizer = AdamW(
        policy.parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )
    return optimizer, LambdaLR(optimizer, factor(settings, updates))


def factor(settings: TrainSettings, updates: int) -> Callable[[int], float]:
    """Learning rate of the n-th update (from 0) as a share of its peak.

    Rises linearly over `warmup_updates`, then follows the schedule down to the final learning
    rate, which it would reach one update after the last.
    """
    floor = settings.final_learning_rate / settings.learning_rate
    warmup, kind = settings.warmup_updates, settings.schedule

    def at(update: int) -> float:
        if update < warmup:
            return (update + 1) / (warmup + 1)
        progress = min(1.0, (update - warmup) / max(1, updates - warmup))
        shape = {
            "constant": 1.0,
            "linear": 1.0 - progress,
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
        }[kind]
        return shape if kind == "constant" else floor + (1 - floor) * shape

    return at
