"""On-policy distillation end to end: the policy comes near its teacher, and the run continues."""

import json
import signal
from pathlib import Path
from statistics import mean

import pytest

from drpo_cli.runs.folder import RunFolder
from drpo_cli.tools.memory.command import PARTS
from support.command import drpo, drpo_until, records, reproducible
from support.models import tiny_model

SETTINGS = (
    "teacher.rewards=false",
    "rollout.prompts_per_step=8",
    "run.steps=12",
    "checkpoint.every=4",
    "eval.every=0",
)
WORDS = [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.fixture
def taught(small: Path) -> Path:
    teacher = tiny_model(small.parent / "teacher", seed=1)
    small.write_text(small.read_text() + f'\n[teacher]\npath = "{teacher.name}"\n')
    return small


def test_a_run_comes_near_its_teacher_and_continues_bit_for_bit(taught: Path) -> None:
    runs = taught.parent / "runs"
    whole, killed = RunFolder(runs / "whole"), RunFolder(runs / "killed")
    done = drpo("train", taught, *WORDS, "--set", "run.name=whole")
    assert done.returncode == 0, done.stderr
    found = [line["teacher_kl"] for line in records(whole.metrics)[1:]]
    assert mean(found[-4:]) < 0.8 * mean(found[:2])
    name = ("--set", "run.name=killed")
    drpo_until(killed.metrics, 5, signal.SIGKILL, "train", taught, *WORDS, *name)
    again = drpo("train", taught, *WORDS, *name, "--resume")
    assert again.returncode == 0, again.stderr
    assert reproducible(killed.metrics) == reproducible(whole.metrics)


def test_a_plan_counts_the_teacher(taught: Path) -> None:
    planned = drpo("plan", taught, "--json")
    assert planned.returncode == 0, planned.stderr
    found = json.loads(planned.stdout)
    phases = {phase["name"]: phase["parts"] for phase in found["phases"]}
    weights = pytest.approx(4 * found["parameters"], rel=1e-3)
    assert phases["train"]["teacher"] == weights
    assert found["other_models_bytes_per_node"] == 0
    planned = drpo("plan", taught, "--json", "--gpu", "h100-80g", "--gpus", 2)
    on_gpus = json.loads(planned.stdout)
    assert on_gpus["other_models_bytes_per_node"] == weights
    assert "teacher" not in on_gpus["phases"][-1]["parts"]
    assert {part for parts in phases.values() for part in parts} <= PARTS.keys()
    checked = drpo("check", taught)
    assert checked.returncode == 0, checked.stderr
    assert "1 × log-probs of" in " ".join(checked.stdout.split())
