"""The trainer's defaults for each kind of device: the one place where they are chosen.

`drpo check` and `drpo plan` show them for devices that this machine need not have, so this module
imports no torch. An engine's defaults are in its own file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from drpo_cli.settings import CheckpointSettings, TrainSettings

NAMES = {"cpu": "CPU", "cuda": "GPU"}
"""The kinds of device, by their names in torch."""


@dataclass(frozen=True)
class Defaults:
    """Values of the keys of `[train]` whose default depends on the device.

    logits_mib  on a CPU, a block that stays in the cache; on a GPU, one that is large enough for
                the time of its products to hide the launches of its 50 kernels
    """

    logits_mib: int


DEFAULTS = {
    "cpu": Defaults(logits_mib=8),
    "cuda": Defaults(logits_mib=512),
}


def resolve(train: TrainSettings, device: str) -> TrainSettings:
    """The settings with a value for every key that has one default per device."""
    defaults = asdict(DEFAULTS[device])
    unset = {key: value for key, value in defaults.items() if getattr(train, key) is None}
    return train.model_copy(update=unset)


def saves_asynchronously(checkpoint: CheckpointSettings, device: str) -> bool:
    """Whether a run goes on while a checkpoint is written; on a CPU both need the cores."""
    return device == "cuda" if checkpoint.asynchronous is None else checkpoint.asynchronous


def describe(train: TrainSettings, device: str) -> str:
    """What `resolve` gives, in words."""
    return f"log-probs in blocks of {resolve(train, device).logits_mib} MiB"
