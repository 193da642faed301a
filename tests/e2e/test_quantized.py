"""Engines that quantise the weights they get: real ones, on whatever device there is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.rollout.engine.precision import cpu_has_exact_int8
from support.models import tiny_model
from support.quantized_case import LOST

TESTS = Path(__file__).parents[1]
ATTENTION = [f"self_attn.{name}_proj" for name in "koqv"]
MLP = [f"mlp.{name}_proj" for name in ("down", "gate", "up")]

pytestmark = pytest.mark.engine


def outcome(folder: Path, kind: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "support.quantized_case", folder, kind, folder / "found.json"],
        cwd=TESTS,
        env={
            "OMP_NUM_THREADS": "2",
            **os.environ,
            "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


# in float32 an int8 engine's dequantised weights are exact; fp8 computes in bfloat16
@pytest.mark.parametrize(
    ("model", "kind", "exact", "gap"),
    [("qwen3", "int8", 1e-6, 0.04), ("qwen3_moe", "fp8", 2**-7, 0.2)],
)
def test_a_quantised_engine(
    model: str, kind: str, exact: float, gap: float, tmp_path: Path
) -> None:
    """It holds the weights that the trainer rounds to, is proven, and a lost tensor is caught.

    On a CPU where int8 engines are refused, it is shown that their products are wrong indeed.
    """
    found = outcome(tiny_model(tmp_path / model, model), kind)
    experts = model == "qwen3_moe"  # whose router and experts stay whole on a CPU
    assert found["quantised"] == (ATTENTION if experts else [*MLP, *ATTENTION])
    if kind == "int8" and not cpu_has_exact_int8():
        assert max(found["as rounded"]) > 0.1
        return
    assert max(found["as rounded"]) < exact
    assert found["sound"] is None and found["fresh"] is None
    assert 1e-3 < found["rounded"] < found["gap"] < gap  # rounded inputs remain
    assert "after sync 1 the engine samples from other weights" in found["stale"]
    assert not found["moved"]
    for lost in LOST:
        assert found[lost] is not None, lost
        assert found[lost].startswith("sync: "), lost
