"""Every step of `make gpu`: on a GPU as it is, and anywhere in a tiny version."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
STEPS = sorted(path.stem for path in (ROOT / "benchmarks" / "gpu").glob("step*.py"))


@pytest.mark.parametrize(
    "size",
    [
        "smoke",
        pytest.param(
            "full",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
def test_every_step_ends_and_keeps_its_bounds(size: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--size", size, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert [result["step"] for result in results] == STEPS
    assert all(result["findings"] for result in results)
    assert (tmp_path / "gpu.md").read_text().count("\n") > len(STEPS)


def test_a_step_that_runs_out_of_time_keeps_what_it_found(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "1", "2", "--size", "smoke"]
    command += ["--minutes", "0.00001", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert [result["ended"] for result in results] == ["ran out of time", "no time was left"]
    assert "ran out of time" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_full_size_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no GPU" in done.stderr and not list(tmp_path.iterdir())
