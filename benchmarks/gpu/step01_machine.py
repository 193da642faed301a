"""The device, the versions, and the two ceilings: the best matrix product, and copies."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from benchmarks.gpu._finding import Finding, Findings, Size, seconds

SIDE: dict[Size, int] = {"full": 8192, "smoke": 256}
COPY: dict[Size, int] = {"full": 2**30, "smoke": 2**20}
PACKAGES = ("torch", "transformers", "triton", "vllm", "flash-attn", "numpy", "pydantic")


def measure(size: Size) -> Findings:
    """Yields names and versions, then rates on random data (zeros run faster on some GPUs)."""
    import torch

    from drpo_cli import dist

    device = torch.device(dist.device_type())
    yield Finding("device", dist.device_name())
    yield Finding("Python", platform.python_version())
    for package in PACKAGES:
        yield Finding(package, _version(package))
    for dtype, tf32 in ((torch.bfloat16, False), (torch.float32, False), (torch.float32, True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        side = SIDE[size]
        left = torch.randn(side, side, device=device).to(dtype)
        right = torch.randn(side, side, device=device).to(dtype)
        rate = 2 * side**3 / seconds(lambda a=left, b=right: a @ b, device) / 1e12
        name = f"matrix product, {dtype}".replace("torch.", "") + (" (TF32)" if tf32 else "")
        yield Finding(name, rate, "TFLOP/s")
    torch.backends.cuda.matmul.allow_tf32 = False
    count = COPY[size]
    there = torch.empty(count, dtype=torch.uint8, device=device).random_()
    copy = torch.empty_like(there)
    rate = 2 * count / seconds(lambda: copy.copy_(there), device) / 1e9
    yield Finding("copy on the device, bytes read and written", rate, "GB/s")
    here = torch.empty(count, dtype=torch.uint8, pin_memory=device.type == "cuda").random_()
    rate = count / seconds(lambda: there.copy_(here, non_blocking=True), device) / 1e9
    yield Finding("pinned host memory to the device", rate, "GB/s")
    rate = count / seconds(lambda: here.copy_(there, non_blocking=True), device) / 1e9
    yield Finding("device to pinned host memory", rate, "GB/s")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
