"""The trainer's defaults for each kind of device: the one place where they are chosen.

`drpo check` and `drpo plan` show them for devices that this machine need not have, so this module
imports no torch. An engine's defaults are in its own file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

from drpo_cli.settings import CheckpointSettings, TrainSettings

NAMES = {"cpu": "CPU", "cuda": "GPU"}
"""The kinds of device, by their names in torch."""
ATTENTION = {"cpu": ("buckets",), "cuda": ("varlen", "buckets")}
"""The kinds of attention (`train.attention`) on each."""


@dataclass(frozen=True)
class Defaults:
    """Values of the keys of `[train]` whose default depends on the device.

    attention   `varlen` is the fastest on a GPU, but computes in bfloat16 only
    logits_mib  on a CPU, a block that stays in the cache; on a GPU, one whose products take longer
                than the launches of its 50 kernels
    """

    attention: str
    logits_mib: int


BY_DEVICE = {field.name for field in fields(Defaults)}


def defaults(device: str, dtype: str) -> Defaults:
    """The defaults of a kind of device for a model of this dtype."""
    if device == "cpu":
        return Defaults("buckets", 8)
    return Defaults("varlen" if dtype == "bfloat16" else "buckets", 512)


GPU_ONLY = {
    ("offload", "optimizer"): "none",
    ("checkpointing_keeps", "offloaded_inputs"): "inputs",
}
"""Values of `[train]` that move something into main memory, and what a CPU has instead."""


def resolve(train: TrainSettings, device: str, dtype: str) -> TrainSettings:
    """The settings with a value for every key whose default depends on the device.

    Values without an effect on the device are replaced.
    """
    values = asdict(defaults(device, dtype))
    unset = {key: value for key, value in values.items() if getattr(train, key) is None}
    return train.model_copy(update=unset | _idle(train, device))


def idle_options(train: TrainSettings, device: str) -> list[str]:
    """Says which values have no effect on the device."""
    return [
        f"train.{key} = {getattr(train, key)!r} has no effect on a {NAMES[device]}: everything is "
        f"in main memory"
        for key in _idle(train, device)
    ]


def _idle(train: TrainSettings, device: str) -> dict[str, str]:
    return {
        key: instead
        for (key, value), instead in GPU_ONLY.items()
        if device == "cpu" and getattr(train, key) == value
    }


def saves_asynchronously(checkpoint: CheckpointSettings, device: str) -> bool:
    """Whether a run goes on while a checkpoint is written; on a CPU both need the cores."""
    return device == "cuda" if checkpoint.asynchronous is None else checkpoint.asynchronous


def describe(train: TrainSettings, device: str, dtype: str, padded: bool = False) -> str:
    """What `resolve` gives, in words; padded rows have the attention of the model."""
    chosen = resolve(train, device, dtype)
    if chosen.attention not in ATTENTION[device]:
        return f"does not run: it has no attention {chosen.attention!r}"
    attention = "the model's own" if padded else chosen.attention
    parts = [f"attention {attention}"]
    if chosen.float8:
        slowly = " (slowly)" if device == "cpu" else ""
        parts.append(f"products in FP8, {chosen.float8}{slowly}")
    parts.append(f"log-probs in blocks of {chosen.logits_mib} MiB")
    if dtype != "float32":
        parts.append(f"head in {dtype if chosen.head_dtype == 'model' else chosen.head_dtype}")
    return ", ".join(parts)


def describe_each(train: TrainSettings, dtype: str, padded: bool) -> Iterator[tuple[str, str]]:
    """A label and what `describe` says, for every kind of device."""
    for kind, name in NAMES.items():
        yield f"trainer on a {name}", describe(train, kind, dtype, padded)
