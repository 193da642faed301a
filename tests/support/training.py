"""A trainer over a tiny model, and what its weights, gradients and moments look like."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from drpo_cli import plugins
from drpo_cli.dist import World, full
from drpo_cli.settings import (
    CriticSettings,
    HeadDtype,
    LoraSettings,
    ModelSettings,
    ReferenceSettings,
    TeacherSettings,
    TrainSettings,
)
from drpo_cli.trainer import optim
from drpo_cli.trainer.attention import BUCKETS
from drpo_cli.trainer.critic import Critic
from drpo_cli.trainer.loading import load_policy, load_reference, load_value_model
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.remote_teacher import RemoteTeacher
from drpo_cli.trainer.routing import prepare
from drpo_cli.trainer.terms import Reference, Teacher
from drpo_cli.trainer.trainer import Objective, Trainer
from drpo_cli.types import Group, Prompt, Rollout, Scores
from support.models import Row, samples

Groups = list[Group]
DType = Literal["float32", "bfloat16"]

CHUNK = 5  # tokens whose log-probs are computed at once: less than any test's micro-batch
STEADY = 1e-3
"""An AdamW epsilon with which a first step does not blow rounding up: for gradients near zero it is
learning rate × sign with the usual 1e-8."""


def open_policy(
    folder: Path,
    world: World,
    temperature: float = 1.0,
    keep: str | None = None,
    trust: bool = False,
    attention: str = BUCKETS,
    dtype: DType = "float32",
    lora: LoraSettings | None = None,
    seed: int = 0,
    layout: str = "auto",
    float8: str | None = None,
    head_dtype: HeadDtype = "float32",
) -> Policy:
    """The sharded policy of a model folder; `trust` allows code that it brings."""
    model = ModelSettings(path=str(folder), dtype=dtype, trust_remote_code=trust)
    return load_policy(
        model, temperature, CHUNK, keep, world, attention, lora, seed, layout, float8, head_dtype
    )


def open_trainer(
    folder: Path,
    world: World,
    objective: str = "drpo",
    options: dict[str, Any] | None = None,
    reference: ReferenceSettings | None = None,
    critic: CriticSettings | None = None,
    trust: bool = False,
    dtype: DType = "float32",
    lora: LoraSettings | None = None,
    teacher: TeacherSettings | None = None,
    **train: Any,
) -> Trainer:
    """A trainer of a model folder; `train` are keys of `[train]`, `options` of the objective."""
    settings = TrainSettings(**{"updates_per_rollout": 1, "learning_rate": 1e-3, **train})
    policy = open_policy(
        folder,
        world,
        keep=settings.checkpointing,
        trust=trust,
        dtype=dtype,
        lora=lora,
        layout=settings.layout,
        float8=settings.float8,
        head_dtype=settings.head_dtype,
    )
    plugin = plugins.load("objectives", objective)
    routing = prepare(policy, settings)
    return Trainer(
        policy,
        optim.build(policy, settings, 100),
        Objective(plugin.entry, plugin.Config(**(options or {}))),
        settings,
        world,
        None if reference is None else _reference(folder, world, reference, policy),
        None if critic is None else _critic(folder, world, critic, settings),
        routing,
        None if teacher is None else _teacher(world, teacher),
    )


def _teacher(world: World, settings: TeacherSettings) -> Teacher | RemoteTeacher:
    if settings.path is None:
        return RemoteTeacher(settings)
    model = ModelSettings(path=settings.path, dtype="float32")
    return Teacher(load_reference(model, 1.0, CHUNK, world), settings)


def _reference(
    folder: Path, world: World, settings: ReferenceSettings, policy: Policy
) -> Reference:
    if policy.adapted and settings.path is None:
        return Reference(policy, settings)
    layout = "padded" if policy.costs.padded else "packed"
    model = ModelSettings(path=settings.path or str(folder), dtype="float32")
    return Reference(load_reference(model, 1.0, CHUNK, world, layout=layout), settings)


def _critic(folder: Path, world: World, settings: CriticSettings, train: TrainSettings) -> Critic:
    model = ModelSettings(path=settings.path or str(folder), dtype="float32")
    values = load_value_model(model, train.checkpointing, world, layout=train.layout)
    optimizer = optim.adamw(values, train, settings.learning_rate)
    return Critic(values, optimizer, settings, train, world)


def valued(batch: Sequence[Row], seed: int = 0) -> list[Row]:
    """The samples with random values and returns, and an advantage of its own for each token."""
    rng = random.Random(seed)

    def column(sample: Row) -> tuple[float, ...]:
        return tuple(rng.uniform(-1, 1) for _ in sample.response_ids)

    return [replace(s, advantages=column(s), values=column(s), returns=column(s)) for s in batch]


def groups_of(scores_PG: Sequence[Sequence[float]], seed: int = 0) -> tuple[Groups, list[Scores]]:
    """A group for each row of scores, of random responses of 1 to 6 tokens."""
    rng = random.Random(seed)
    groups = []
    for place, scores_G in enumerate(scores_PG):
        lengths = [(3, rng.randint(1, 6)) for _ in scores_G]
        batch = samples(lengths, rng.randrange(2**30))
        prompt = Prompt(f"{seed}-{place}", "", batch[0].prompt_ids, None, {})
        rollouts = [Rollout(s.response_ids, s.old_logps, "", False) for s in batch]
        groups.append(Group(prompt, tuple(rollouts)))
    return groups, [Scores(tuple(scores_G), {}) for scores_G in scores_PG]


class ByHand(NamedTuple):
    """One sample in plain transformers, with gradients: log π and entropy of its tokens, [T]."""

    sample: Row
    logp_T: Tensor
    entropy_T: Tensor


def gradients_by_hand(
    folder: Path, batch: Sequence[Row], loss: Callable[[list[ByHand]], Tensor]
) -> tuple[dict[str, Tensor], float]:
    """Gradients and value of a loss over unpacked samples, one forward pass each."""
    text = AutoConfig.from_pretrained(folder).get_text_config()
    capped = getattr(text, "attn_logit_softcapping", None)  # which torch's kernels leave out
    lm = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager" if capped else None
    )
    seen = []
    for sample in batch:
        ids = torch.tensor([sample.prompt_ids + sample.response_ids])
        logp_TV = lm(ids).logits[0, len(sample.prompt_ids) - 1 : -1].log_softmax(-1)
        target_T = torch.tensor(sample.response_ids)
        logp_T = logp_TV.gather(-1, target_T[:, None])[:, 0]
        seen.append(ByHand(sample, logp_T, -(logp_TV.exp() * logp_TV).sum(-1)))
    value = loss(seen)
    value.backward()
    gradients = {name: w.grad for name, w in lm.named_parameters() if w.grad is not None}
    return gradients, float(value.detach())


def log_probs_by_hand(folder: Path, batch: Sequence[Row]) -> list[Tensor]:
    """log π of the response tokens of each sample, from unpacked forward passes."""
    found: list[Tensor] = []

    def collect(seen: list[ByHand]) -> Tensor:
        found.extend(each.logp_T.detach() for each in seen)
        return torch.cat([each.logp_T for each in seen]).sum()

    gradients_by_hand(folder, batch, collect)
    return found


def flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    """A step's metrics with one key each, also those inside others: `by_mu.0.1.masked_share`."""
    found: dict[str, float] = {}
    for key, value in metrics.items():
        inside = flat(value) if isinstance(value, Mapping) else None
        found |= {key: value} if inside is None else {f"{key}.{k}": v for k, v in inside.items()}
    return found


def weights(policy: Policy) -> dict[str, Tensor]:
    """Every weight, and those of adapters, whole, as copies. Collective."""
    named = [*policy.named_weights(), *policy.named_adapters()]
    return {name: full(weight).clone() for name, weight in named}


def moments(trainer: Trainer) -> dict[str, Tensor]:
    """Every tensor of the optimizer's state, whole, as a copy. Collective."""
    return {
        f"{name}.{key}": full(value).clone()
        for name, weight in _trained(trainer.policy)
        for key, value in trainer.optimizer.state[weight].items()
    }


def _trained(policy: Policy) -> list[tuple[str, Any]]:
    return policy.named_adapters() or policy.named_weights()


def adapters(policy: Policy) -> dict[str, Tensor]:
    """The matrices A and B of every adapter, whole, as a copy. Collective."""
    return {name: full(weight).clone() for name, weight in policy.named_adapters()}


def critic_state(trainer: Trainer) -> dict[str, Tensor]:
    """Weights and moments of the critic, whole, as a copy; nothing without one. Collective."""
    if trainer.critic is None:
        return {}
    named = list(trainer.critic.model.named_parameters())
    held = {name: full(weight).clone() for name, weight in named}
    for name, weight in named:
        for key, value in trainer.critic.optimizer.state.get(weight, {}).items():
            held[f"{name}.{key}"] = full(value).clone()
    return held


@contextmanager
def caught_gradients(trainer: Trainer) -> Iterator[list[dict[str, Tensor]]]:
    """Collects the whole, clipped gradients that each optimizer step sees. Collective."""
    seen: list[dict[str, Tensor]] = []

    def look(*_: object) -> None:
        named = _trained(trainer.policy)
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
