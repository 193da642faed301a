"""`drpo train --from`: a run that begins with the weights of another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from drpo_cli.runs.folder import RunFolder
from support.command import drpo, drpo_here, records

pytestmark = pytest.mark.engine


def test_a_run_begins_with_the_weights_of_another(small: Path) -> None:
    first, second = (RunFolder(small.parent / "runs" / name) for name in ("small", "second"))
    every = ("--set", "eval.every=1", "--set", "checkpoint.every=1")
    assert drpo("train", small, *every).returncode == 0
    scores = [record["held_out"] for record in records(first.metrics)]

    new = ("--set", "run.name=second", "--set", "run.steps=1")
    refused = drpo_here("train", small, *new, "--from", f"{first.path}@7")
    assert refused.returncode == 2 and "a step that was saved (1, 2)" in refused.stderr
    refused = drpo_here("train", small, *new, "--from", small.parent / "model")
    assert refused.returncode == 2 and "nor a run folder with one" in refused.stderr
    assert not second.path.exists(), "nothing is left of a run that cannot begin"

    done = drpo("train", small, *new, "--from", f"{first.path}@1")
    assert done.returncode == 0, done.stdout + done.stderr
    # the same problems and the same seed: the score is that of the weights after the step
    assert records(second.metrics)[0]["held_out"] == scores[1]
    assert json.loads(second.versions.read_text())["from"] == f"{first.path}, step 1"
    assert f"begins with the weights of {first.path}, step 1" in second.events.read_text()

    shutil.rmtree(first.path)  # the new run does not need it
    more = ("--set", "run.name=second", "--set", "run.steps=2", "--resume")
    refused = drpo_here("train", small, "--set", "run.name=second", "--from", first.path)
    assert refused.returncode == 2 and "holds a run that is not finished" in refused.stderr
    for other in (small.parent, f"{first.path}@2"):
        refused = drpo_here("train", small, *more, "--from", other)
        assert (
            refused.returncode == 2 and f"began with the weights of {first.path}" in refused.stderr
        )
    done = drpo("train", small, *more, "--from", f"{first.path}@1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [record["step"] for record in records(second.metrics)] == [0, 1, 2]
    assert f'path = "{second.path}/start"' in second.spec.read_text()
    assert drpo("eval", second.path, "--samples", 1).returncode == 0


def test_only_a_new_run_begins_elsewhere(small: Path) -> None:
    assert drpo("train", small).returncode == 0
    run = small.parent / "runs" / "small"
    done = drpo_here("train", small, "--resume", "--set", "run.steps=3", "--from", run)
    assert done.returncode == 2 and "began without it, and has weights of its own" in done.stderr
