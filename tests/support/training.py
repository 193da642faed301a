"""A trainer over a tiny model, and what its weights, gradients and moments look like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from drpo_cli import plugins
from drpo_cli.dist import World, full
from drpo_cli.settings import ModelSettings, TrainSettings
from drpo_cli.trainer import optim
from drpo_cli.trainer.model import Policy, load_policy
from drpo_cli.trainer.step import Objective, Trainer

CHUNK = 5  # tokens whose log-probs are computed at once: less than any test's micro-batch
STEADY = 1e-3
"""An AdamW epsilon with which a first step does not blow rounding up: for gradients near zero it is
learning rate × sign with the usual 1e-8."""


def open_policy(
    folder: Path, world: World, temperature: float = 1.0, checkpointing: bool = False
) -> Policy:
    """The sharded policy of a model folder, in float32."""
    model = ModelSettings(path=str(folder), dtype="float32")
    return load_policy(model, temperature, CHUNK, checkpointing, world)


def open_trainer(
    folder: Path,
    world: World,
    objective: str = "drpo",
    options: dict[str, Any] | None = None,
    **train: Any,
) -> Trainer:
    """A trainer of a model folder; `train` are keys of `[train]`, `options` of the objective."""
    settings = TrainSettings(**{"updates_per_rollout": 1, "learning_rate": 1e-3, **train})
    policy = open_policy(folder, world, checkpointing=settings.gradient_checkpointing)
    module = plugins.load("objectives", objective)
    chosen = Objective(module, module.Config(**(options or {})))
    return Trainer(policy, optim.build(policy, settings, 100), chosen, settings, world)


def weights(policy: Policy) -> dict[str, Tensor]:
    """Every weight, whole, as a copy. Collective."""
    return {name: full(weight).clone() for name, weight in policy.named_weights()}


def moments(trainer: Trainer) -> dict[str, Tensor]:
    """Every tensor of the optimizer's state, whole, as a copy. Collective."""
    return {
        f"{name}.{key}": full(value).clone()
        for name, weight in trainer.policy.named_weights()
        for key, value in trainer.optimizer.state[weight].items()
    }


@contextmanager
def caught_gradients(trainer: Trainer) -> Iterator[list[dict[str, Tensor]]]:
    """Collects the whole, clipped gradients that each optimizer step sees. Collective."""
    seen: list[dict[str, Tensor]] = []

    def look(*_: object) -> None:
        named = trainer.policy.named_weights()
        seen.append({name: full(w.grad).clone() for name, w in named if w.grad is not None})

    handle = trainer.optimizer.register_step_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def furthest(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest absolute difference between two sets of named tensors."""
    assert left.keys() == right.keys() and left
    return max(float((left[name] - right[name]).detach().abs().max()) for name in left)
