"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.nn.utils import get_total_norm
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from drpo_cli.dist import local
from drpo_cli.settings import TrainSettings


def build(
    policy: nn.Module, settings: TrainSettings, updates: int, resting: int = 0
) -> tuple[AdamW, LambdaLR]:
    """The optimizer over the trained float32 weights, and its schedule over `updates` updates.

    In the first `resting` of them the policy is not trained: the schedule begins after them.
    """
    optimizer = adamw(policy, settings, settings.learning_rate)
    return optimizer, LambdaLR(optimizer, factor(settings, updates, resting))


def adamw(model: nn.Module, settings: TrainSettings, learning_rate: float) -> AdamW:
    """AdamW over a model's trained weights, with `[train]`'s options and its own learning rate."""
    return AdamW(
        [weight for weight in model.parameters() if weight.requires_grad],
        lr=learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,  # one pass over memory; the plain one makes a dozen
    )


def clip_gradients(weights: Iterable[nn.Parameter], most: float) -> float:
    """Scales gradients down to a global norm of at most `most`; returns the norm that they had.

    Consumes: a sharded model's weights, each with its gradient or none.
    Waits for: all ranks, once. torch's own function waits once for each weight.
    Produces: the same norm on every rank.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    shards = [local(gradient) for gradient in gradients]
    norm = get_total_norm(shards)
    whole = gradients[0] if gradients else None
    if isinstance(whole, DTensor) and whole.device_mesh.size() > 1:
        parts = [Partial() if placed.is_shard() else Replicate() for placed in whole.placements]
        norm = DTensor.from_local(norm**2, whole.device_mesh, parts).full_tensor().sqrt()
    torch._foreach_mul_(shards, (most / (norm + 1e-6)).clamp(max=1.0))
    return norm.item()


def hyperparameters(optimizer: AdamW) -> list[dict[str, Any]]:
    """The parameter groups without the parameters."""
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


def resume(
    optimizer: AdamW, schedule: LambdaLR, updates: int, settings: list[dict[str, Any]]
) -> None:
    """Gives a restored optimizer the spec's hyperparameters and its place in the schedule."""
    schedule.last_epoch = updates
    restore(optimizer, settings)
    for group, base, at in zip(
        optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
    ):
        group["lr"] = base * at(updates)
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]


def restore(optimizer: AdamW, settings: list[dict[str, Any]]) -> None:
    """Replaces a checkpoint's hyperparameters by the spec's."""
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def factor(settings: TrainSettings, updates: int, resting: int = 0) -> Callable[[int], float]:
    """The learning rate of the n-th update (from 0) as a share of the peak.

    After `resting` updates it rises linearly over `warmup_updates`, then follows the schedule
    towards the final learning rate, which it would reach one update after the last.
    """
    floor = settings.final_learning_rate / settings.learning_rate
    warmup, kind = settings.warmup_updates, settings.schedule
    updates -= resting

    def at(update: int) -> float:
        update = max(0, update - resting)
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
