"""Rules over the experts of a model: what `[train]` says about routers needs some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drpo_cli.settings import TrainSettings
from drpo_cli.spec.model import Spec
from drpo_cli.spec.problems import Problem

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""The keys of a config.json that say how many experts a layer has."""


def experts_of(config: Mapping[str, Any] | None) -> int:
    """How many experts a layer has, by a config.json; 0 for none, or if it is not known yet."""
    inner = (config or {}).get("text_config")
    parts = [part for part in (config, inner) if isinstance(part, Mapping)]
    counts = [part.get(key) for part in parts for key in COUNTS]
    return max((count for count in counts if isinstance(count, int)), default=0)


def experts_fit(spec: Spec, config: Mapping[str, Any] | None) -> Iterator[Problem]:
    """Options of routers need a model that has some; replay needs an engine that names experts."""
    if spec.train.freeze_routers and spec.lora is not None:
        what = "has no effect with [lora], which trains nothing but adapters; leave it out"
        yield Problem(("train", "freeze_routers"), what)
    if spec.train.router_dtype == spec.model.dtype:
        what = "has no effect: everything is in model.dtype, which is float32; leave it out"
        yield Problem(("train", "router_dtype"), what)
    for key in _asked(spec.train) if config is not None and not experts_of(config) else ():
        what = f"is set, but the model in {spec.model.path} has no experts; leave it out"
        yield Problem(("train", key), what)
    named = getattr(spec.rollout.plugin.entry, "returns_experts", False)
    if spec.train.router_replay and not named:
        yield Problem(
            ("train", "router_replay"),
            f"needs to know which experts the engine chose, and engine {spec.rollout.type!r} does "
            "not say so; set it to false, or use another engine",
            also=(("rollout", "engine"),),
        )


def describe(spec: Spec, config: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """A row for `drpo check`, for a model that has experts or where an option needs some."""
    train, count = spec.train, experts_of(config)
    if not count and not _asked(train):
        return
    choice = "chosen as the engine chose" if train.router_replay else "chosen by the trainer"
    parts = [f"{count:,} per layer, {choice}" if count else choice]
    if train.router_dtype == "float32":
        parts.append("scores in float32")
    parts.append("routers frozen" if train.freeze_routers else "routers trained")
    yield "experts", ", ".join([*parts, "no load-balancing loss"])


def _asked(train: TrainSettings) -> list[str]:
    defaults = {name: field.default for name, field in TrainSettings.model_fields.items()}
    keys = ("router_replay", "router_dtype", "freeze_routers")
    return [key for key in keys if getattr(train, key) != defaults[key]]
