"""The weight sync on a real engine, per architecture; it must catch deliberate faults."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.models import tiny_model
from support.models_page import SAMPLED

TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.engine


def outcome(folder: Path, fault: str = "none", *lora: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "support.sync_case", str(folder), fault, *lora],
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
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", SAMPLED)
def test_every_weight_reaches_the_engine(kind: str, tmp_path: Path) -> None:
    found = outcome(tiny_model(tmp_path / kind, kind))
    assert found["caught"] is None
    assert found["kept"], "the rehearsal must give the exact weights back"
    assert "after sync 1 the engine samples from other weights" in found["later"]
    assert found["fresh"] < 1e-5 < 1e-3 < found["stale"]
    assert not found["moved"]  # captured graphs would read the old places


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("qwen3", "stale head"), ("qwen3_moe", "experts not packed"), ("llama", "lost tensor")],
)
def test_a_broken_sync_is_caught_before_the_first_step(
    kind: str, fault: str, tmp_path: Path
) -> None:
    found = outcome(tiny_model(tmp_path / kind, kind), fault)
    assert found["caught"].startswith("sync: ")
    assert "mean |log π − log μ| is" in found["caught"]


@pytest.mark.parametrize("way", ["adapter", "merged"])
def test_adapters_reach_the_engine(way: str, tmp_path: Path) -> None:
    found = outcome(tiny_model(tmp_path / "model"), "none", way)
    assert found["caught"] is None
    assert found["kept"], "no push may change what the trainer holds"
    assert "after sync 1 the engine samples from other weights" in found["later"]
    assert found["fresh"] < 1e-5 < 1e-3 < found["stale"]
    assert not found["moved"]


@pytest.mark.parametrize("fault", ["old adapter", "lost layer"])
def test_adapters_that_do_not_reach_the_slot_are_caught(fault: str, tmp_path: Path) -> None:
    found = outcome(tiny_model(tmp_path / "model"), fault, "adapter")
    assert found["caught"].startswith("sync: ")
    named = "layers.1.mlp.down_proj.lora_" in found["caught"]
    assert named == (fault == "lost layer")
