"""GPUs and how they are joined, as torch sees them and as the driver does."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator

from drpo_cli.tools.doctor.findings import Finding, ok, warning, wrong
from drpo_cli.tools.doctor.probe import Answer

_PATIENCE_S = 20.0
_LINK = re.compile(r"\b(?:NV\d+|PIX|PXB|PHB|NODE|SYS)\b")


def devices(training: Answer) -> Iterator[Finding]:
    """Each GPU; or that there is none, and whether that is meant."""
    driver = driver_version()
    gpus = training.said.get("gpus")
    if gpus is None:
        yield warning("devices", "unknown: torch does not say", "mend torch first (above)")
    elif gpus:
        for index, gpu in enumerate(gpus):
            free, total = gpu["free"] / 2**30, gpu["total"] / 2**30
            text = f"{gpu['name']}, {total:.0f} GiB, {free:.0f} GiB free, driver {driver or '?'}"
            if free < total / 2:
                fix = "end what else runs on it (nvidia-smi), or choose by CUDA_VISIBLE_DEVICES"
                yield warning(f"GPU {index}", text, fix)
            else:
                yield ok(f"GPU {index}", text)
    elif driver is None:
        yield ok("devices", "no GPU: runs go to the CPU")
    else:
        yield _unused(training, driver)


def _unused(training: Answer, driver: str) -> Finding:
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return warning(
            "devices", "CUDA_VISIBLE_DEVICES is empty, which hides the GPUs", "unset it to use them"
        )
    if training.said.get("cuda") is None:
        return wrong(
            "devices",
            f"there are GPUs (driver {driver}), but torch {training.said['torch']} is a CPU build",
            "install torch for CUDA and 'drpo[gpu]' (https://pytorch.org/get-started/locally)",
        )
    why = "; ".join(training.said.get("why_none", ())) or "it does not say why"
    return wrong(
        "devices",
        f"torch for CUDA {training.said['cuda']} cannot use the GPUs of driver {driver}: {why}",
        "update the driver, or install torch for an older CUDA",
    )


def driver_version() -> str | None:
    """Version of NVIDIA's driver; None without one, or without a GPU."""
    text = _nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader")
    return text.splitlines()[0].strip() if text.strip() else None


def interconnect(training: Answer) -> Iterator[Finding]:
    """How GPUs reach each other; on a CPU, the name and interface that gloo's ranks would use."""
    gpus = training.said.get("gpus") or []
    if len(gpus) > 1:
        yield _between(len(gpus), training)
    interface = os.environ.get("GLOO_SOCKET_IFNAME")
    known = [name for _, name in socket.if_nameindex()]
    if interface and interface not in known:
        yield wrong(
            "network",
            f"GLOO_SOCKET_IFNAME is {interface!r}, and this machine has {', '.join(known)}",
            "unset GLOO_SOCKET_IFNAME, or set it to lo",
        )
        return
    home = socket.gethostbyname("localhost")
    if not home.startswith("127."):
        found = f"localhost is {home}, and not this machine: ranks cannot meet"
        yield wrong("network", found, "mend /etc/hosts: 127.0.0.1 localhost")
        return
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        yield warning(
            "network",
            f"the machine's name {name!r} does not resolve ({error.strerror}); ranks use loopback",
            f"add a line to /etc/hosts: 127.0.0.1 {name}",
        )
        return
    via = f", over {interface}" if interface else ""
    yield ok("network", f"{name} is {address}; ranks meet on localhost{via}")


def _between(count: int, training: Answer) -> Finding:
    pairs, reached = count * (count - 1) // 2, len(training.said.get("peers", ()))
    kinds = sorted({"NVLink" if link[:2] == "NV" else "PCIe" for link in _links()})
    links = " and ".join(kinds) or "unknown links"
    text = f"{links} between {count} GPUs, {reached} of {pairs} pairs"
    if reached == pairs:
        return ok("interconnect", f"{text} reach each other's memory")
    return warning(
        "interconnect",
        f"{text} reach each other's memory: the others go through main memory",
        "see nvidia-smi topo -p2p r; in a virtual machine or with ACS, peer access may be off",
    )


def _links() -> list[str]:
    rows = [row for row in _nvidia_smi("topo", "-m").splitlines() if row.startswith("GPU")]
    return [link for row in rows for link in _LINK.findall(row)]


def _nvidia_smi(*arguments: str) -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    done = subprocess.run(
        ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    return done.stdout if done.returncode == 0 else ""
