"""GPUs, as torch and the driver see them, and whether two processes can exchange numbers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from drpo_cli import processes
from drpo_cli.tools.doctor.findings import Finding, ok, warning, wrong
from drpo_cli.tools.doctor.probe import Answer

NVIDIA_SMI_S = 20.0
EXPECTED_SUM = 3.0
CONNECT = "unset GLOO_SOCKET_IFNAME and proxies, or set GLOO_SOCKET_IFNAME=lo; fix /etc/hosts"


def check_gpus(torch: Answer) -> Iterator[Finding]:
    """Each GPU; or that there is none, and whether torch should have found one."""
    driver = driver_version()
    gpus = torch.said.get("gpus")
    if gpus is None:
        yield warning("devices", "unknown: torch does not import", "fix torch first (above)")
    elif gpus:
        for index, gpu in enumerate(gpus):
            free, total = gpu["free"] / 2**30, gpu["total"] / 2**30
            text = f"{gpu['name']}, {total:.0f} GiB, {free:.0f} GiB free, driver {driver or '?'}"
            if free < total / 2:
                fix = "end other programs on it (nvidia-smi), or set CUDA_VISIBLE_DEVICES"
                yield warning(f"GPU {index}", text, fix)
            else:
                yield ok(f"GPU {index}", text)
    elif driver is None:
        yield ok("devices", "no GPU: runs use the CPU")
    elif os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        found = "CUDA_VISIBLE_DEVICES is empty, which hides the GPUs"
        yield warning("devices", found, "unset it to use them")
    elif torch.said.get("cuda") is None:
        yield wrong(
            "devices",
            f"the machine has GPUs (driver {driver}), but torch {torch.said['torch']} is a build "
            "for CPUs",
            "install torch for CUDA and 'drpo[gpu]' (https://pytorch.org/get-started/locally)",
        )
    else:
        why = "; ".join(torch.said.get("why_none", ())) or "torch gives no reason"
        yield wrong(
            "devices",
            f"torch for CUDA {torch.said['cuda']} cannot use the GPUs of driver {driver}: {why}",
            "update the driver, or install torch for an older CUDA",
        )


def driver_version() -> str | None:
    """The version of NVIDIA's driver; None without a driver or without a GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = processes.capture(query, seconds=NVIDIA_SMI_S)
    lines = done.out.split() if done.code == 0 else []
    return lines[0] if lines else None


def check_all_reduce(answer: Answer) -> Iterator[Finding]:
    """Whether two processes connect and add up; where they do not, how far they came."""
    check, said = "all-reduce", answer.said
    backend = said.get("backend")
    if answer.status == 0 and said.get("total") == EXPECTED_SUM:
        yield ok(check, f"2 processes over {backend}, {1000 * said['seconds']:.1f} ms")
    elif answer.status == 0:
        found = f"2 processes over {backend} add 1 and 2 up to {said.get('total')}"
        yield wrong(check, found, "try another machine, and report it")
    elif backend is None:
        yield warning(check, f"not tried: {answer.reason}", "fix torch first (above)")
    else:
        interface = os.environ.get("GLOO_SOCKET_IFNAME")
        where = f"rank 0: {said.get('0', 'not started')}"
        where += f", GLOO_SOCKET_IFNAME is {interface}" if interface else ""
        yield wrong(check, f"2 processes over {backend}: {answer.reason} ({where})", CONNECT)
