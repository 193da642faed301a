"""Rules over `[lora]`: what engines and the rest of a spec allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from drpo_cli.devices import NAMES
from drpo_cli.model_folder import ADAPTER_CONFIG
from drpo_cli.settings import LoraSettings, RolloutSettings
from drpo_cli.spec.model import Spec
from drpo_cli.spec.problems import Problem

MOST_RANK = {"vllm": 512}
"""The highest rank of an adapter that an engine takes (vLLM 0.32: `MaxLoRARanks`)."""

FULL_RATE = 1e-6
"""The default of `train.learning_rate`, which is one for training all weights."""
ROUTERS = {"gate", "router"}
"""Matrices beside experts, which transformers makes no linear layers."""


def syncs_of(lora: LoraSettings, rollout: RolloutSettings) -> dict[str, str]:
    """What a sync pushes, `adapter` or `merged`, by the kind of device."""
    return {kind: lora.sync_into(rollout, kind == "cuda") for kind in NAMES}


def describe_sync(lora: LoraSettings, rollout: RolloutSettings) -> str:
    """What a sync pushes, in words, with the kind of device where it matters."""
    words = {"adapter": "them alone", "merged": "them merged"}
    syncs = syncs_of(lora, rollout)
    if len(set(syncs.values())) == 1:
        return words[syncs["cpu"]]
    return ", ".join(f"{words[sync]} on a {NAMES[kind]}" for kind, sync in syncs.items())


def shares_base(spec: Spec) -> bool:
    """Whether the reference policy is the base of the adapters: it needs no copy of its own."""
    reference = spec.reference
    return spec.lora is not None and reference is not None and reference.path is None


def rank_fits_the_engine(spec: Spec) -> Iterator[Problem]:
    most = MOST_RANK.get(spec.rollout.type)
    if spec.lora is None or most is None or spec.lora.rank <= most:
        return
    if "adapter" in syncs_of(spec.lora, spec.rollout.config).values():
        yield Problem(
            ("lora", "rank"),
            f"is {spec.lora.rank}; {spec.rollout.type} takes adapters of at most rank {most}; "
            "lower it, or set lora.sync to 'merged'",
            also=(("lora", "sync"),),
        )


def an_engine_takes_adapters(spec: Spec) -> Iterator[Problem]:
    if spec.lora and spec.lora.sync == "adapter" and spec.rollout.type == "transformers":
        yield Problem(
            ("lora", "sync"),
            "is 'adapter', and the transformers engine takes merged weights alone; remove it",
            also=(("rollout", "engine"),),
            on_key=True,
        )


def the_start_is_an_adapter(spec: Spec) -> Iterator[Problem]:
    start = spec.lora and spec.lora.start
    if start and not (start / ADAPTER_CONFIG).is_file():
        yield Problem(
            ("lora", "start"),
            f"is {str(start)!r}, which has no {ADAPTER_CONFIG}; name an adapter in PEFT's format, "
            "as drpo export writes it",
        )


def full_training_rates_are_low(spec: Spec) -> Iterator[Problem]:
    if spec.lora and spec.train.learning_rate <= FULL_RATE:
        yield Problem(
            ("train", "learning_rate"),
            f"is {spec.train.learning_rate:g}, a rate for training all weights; adapters want one "
            "about ten times as high",
            also=(("lora",),),
        )


def routers_are_frozen(spec: Spec) -> Iterator[Problem]:
    if spec.lora and spec.train.freeze_routers:
        yield Problem(
            ("train", "freeze_routers"),
            "has no effect with [lora], which trains adapters alone; remove it",
            also=(("lora",),),
            on_key=True,
        )


def targets_exist(spec: Spec, matrices: Mapping[str, tuple[int, ...]]) -> Iterator[Problem]:
    """Every target is the name of a linear layer, by the matrices in the files of the model."""
    linear = linear_layers(matrices)
    if spec.lora is None or isinstance(spec.lora.target_modules, str) or not linear:
        return  # without known layers the trainer will see
    missing = [one for one in spec.lora.target_modules if not any(has(n, one) for n in linear)]
    if missing:
        there = ", ".join(sorted({name.rpartition(".")[2] for name in linear} - ROUTERS))
        yield Problem(
            ("lora", "target_modules"),
            f"names {', '.join(map(repr, missing))}, which no linear layer of {spec.model.path} "
            f"is called; there are {there}",
        )


def has(name: str, target: str) -> bool:
    """Whether a target means the layer of this name: by all of it, or by its last parts."""
    return f".{name}".endswith(f".{target}")


def linear_layers(matrices: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The linear layers of decoder layers among the matrices in a model's files, by their shapes.

    Experts are none: files have them one by one, and the model stacks them.
    """
    return [
        name.removesuffix(".weight")
        for name, shape in matrices.items()
        if ".layers." in name and name.endswith(".weight") and len(shape) == 2
        if ".experts." not in name
    ]


def count_adapters(spec: Spec, matrices: Mapping[str, tuple[int, ...]]) -> int:
    """The trained weights of adapters, by the matrices in the files of the model."""
    assert spec.lora is not None
    targets = spec.lora.target_modules
    chosen = [
        name
        for name in linear_layers(matrices)
        if isinstance(targets, str) or any(has(name, target) for target in targets)
    ]
    return spec.lora.rank * sum(sum(matrices[f"{name}.weight"]) for name in chosen)


ERRORS = (
    rank_fits_the_engine,
    an_engine_takes_adapters,
    the_start_is_an_adapter,
    routers_are_frozen,
)
WARNINGS = (full_training_rates_are_low,)
