"""A run is the same with trackers that work and with trackers that fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli.runs.folder import RunFolder
from support.command import drpo, records, reproducible
from support.trackers import table

pytestmark = pytest.mark.engine

SOUND = table("Notes") + '[[tracker]]\ntype = "tensorboard"\n'
DOWN = table("Raising", finish_s=1.0) + table("Dying") + table("Hanging", finish_s=1.0)


def test_trackers_that_are_down_change_nothing(small: Path) -> None:
    plain = small.read_text()
    assert drpo("train", small).returncode == 0
    small.write_text(plain + SOUND + DOWN)
    tracked = RunFolder(small.parent / "runs" / "tracked")
    done = drpo("train", small, "--set", 'run.name="tracked"')
    assert done.returncode == 0, done.stderr

    assert reproducible(tracked.metrics) == reproducible(small.parent / "runs/small/metrics.jsonl")
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: tracker")]
    assert [line.split(":")[1].split()[-1] for line in warnings] == ["Raising", "Dying", "Hanging"]
    assert all("3 of 3 steps were not sent" in line for line in warnings)
    assert "did not end within 1 s" in warnings[0] and "did not end within 1 s" in warnings[2]
    notes = records(tracked.tracker("Notes") / "notes.jsonl")
    assert [note["what"] for note in notes] == ["opened", "log", "log", "log", "closed"]
    assert [note["step"] for note in notes[1:4]] == [0, 1, 2]
    assert list(tracked.tracker("tensorboard").glob("events.*"))
    assert tracked.tracker_log("Raising").read_text().count("ConnectionError: no route") >= 1

    again = drpo("train", small, "--set", 'run.name="tracked"', "--set", "run.steps=3", "--resume")
    assert again.returncode == 0, again.stderr
    notes = records(tracked.tracker("Notes") / "notes.jsonl")
    assert [note["step"] for note in notes if note["what"] == "log"] == [0, 1, 2, 3]
    assert [note["id"] for note in notes if note["what"] == "opened"] == [None, "first"]


def test_runs_of_a_comparison_are_tracked_too(small: Path) -> None:
    small.write_text(small.read_text() + table("Notes") + table("Dying"))
    out = small.parent / "out"
    done = drpo("compare", small, "--vary", "objective=drpo", "--seeds", "0", "--out", out)
    assert done.returncode == 0, done.stderr
    (notes,) = out.glob("*/trackers/Notes/notes.jsonl")
    assert [n["step"] for n in records(notes) if n["what"] == "log"] == [0, 1, 2]
    assert records(notes)[-1] == {"what": "closed"}
