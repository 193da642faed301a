"""Devices a run can be planned for: their memory, and what their attention kernels can do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from drpo_cli.errors import UserError

GIB = 2**30

# GiB that torch has to give: the "total capacity" in its out-of-memory messages, which is what the
# driver leaves of the vendor's round number; of several drivers' figures the least.
GPUS = {
    "h100-80g": 79.1,
    "h200-141g": 139.7,
    "b200-180g": 178.3,
    "a100-80g": 79.1,
    "a100-40g": 39.4,
    "l40s-48g": 44.3,
    "a10g-24g": 22.0,
    "l4-24g": 22.0,
    "rtx4090-24g": 23.5,
    "mi300x-192g": 191.7,
}
# Where torch asks cuDNN first, which takes a mask and heads that share their keys at the same time
# (`check_prefer_cudnn_attention` in torch's aten/src/ATen/native/transformers/cuda/sdp_utils.cpp:
# compute capability 9.0 and 10.0). Elsewhere such a call can end in the kernel that holds all
# scores: flash attention takes no mask, and the memory-efficient kernel no shared keys before
# torch 2.14.
MASKED_GROUPS = ("h100", "h200", "b200")


@dataclass(frozen=True)
class Device:
    """What a process of the run has to itself.

    bytes           memory there is
    cuda            a GPU, rather than a process on a CPU
    masked_groups   whether a fused attention kernel takes a mask and heads that share keys together
    """

    name: str
    bytes: int
    cuda: bool
    masked_groups: bool


def parse(text: str, processes: int) -> Device:
    """The device of `--gpu`: a name of the table, `48g`, `cpu-24g`, or `cpu` for this machine.

    `cpu` is this machine's memory, shared evenly by the processes. Raises UserError for another.
    """
    name = text.lower()
    if name in GPUS:
        return Device(name, int(GPUS[name] * GIB), True, name.startswith(MASKED_GROUPS))
    if name == "cpu":
        return Device(name, _main_memory() // processes, False, True)
    found = re.fullmatch(r"(cpu-)?(\d+(?:\.\d+)?)g(?:i?b)?", name)
    if found is None or not float(found[2]):
        raise UserError(
            f"--gpu {text}: is not a device; give one of {', '.join(GPUS)}, a size such as 48g, "
            f"cpu-24g for a process with so many GiB, or cpu for this machine"
        )
    return Device(name, int(float(found[2]) * GIB), found[1] is None, found[1] is not None)


def _main_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)
