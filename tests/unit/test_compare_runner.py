"""What the runner of a grid says of its runs, and which GPUs it gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli import dist
from drpo_cli.tools.compare import runner
from drpo_cli.tools.compare.jobs import State
from support.grids import DONE, grid, record


def test_why_a_run_ended(tmp_path: Path) -> None:
    (job,) = grid(tmp_path, "objective=drpo", seeds=(0,))
    (job.folder.path / "logs").mkdir(parents=True)
    assert "died with exit code -9 and recorded no error" in runner.explain(job.folder, 1, -9)
    job.folder.record_error(0, 1, "Traceback (most recent call last):\n  x\nValueError: no\n")
    assert runner.explain(job.folder, 1, 1) == "ValueError: no"
    job.folder.record_error(1, 2, "the disk\nis full")
    assert runner.explain(job.folder, 2, 1) == "the disk is full"


def test_a_line_says_how_a_run_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = grid(tmp_path, "objective=drpo,spo", seeds=(4,))
    record(one, 0.2, 0.5)
    with runner.Screen(total=5, done=1) as shown:
        for job, state in ((one, DONE), (other, State("failed", "no")), (one, State("unfinished"))):
            shown.started(job)
            shown.ended(job, state)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2/5  drpo, seed 4: held-out 0.200 → 0.500  (")
    assert lines[1].startswith("3/5  spo, seed 4: failed: no  (")
    assert lines[2].startswith("3/5  drpo, seed 4: stopped after step 5")


def test_each_slot_gets_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "device_type", lambda: "cuda")
    monkeypatch.setattr(dist, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [runner.choose_devices(slot, 2) for slot in range(3)] == ["0,1", "2,3", "0,1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [runner.choose_devices(slot, 1) for slot in range(2)] == ["5", "7"]
    monkeypatch.setattr(dist, "device_type", lambda: "cpu")
    assert runner.choose_devices(0, 1) is None
