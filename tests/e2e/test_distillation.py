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
from support.servers import Asked, Reply, serving
from support.teachers import answering

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


def test_a_teacher_behind_an_endpoint_teaches_the_same_until_it_fails(
    taught: Path, tmp_path: Path
) -> None:
    steps = ("--set", "run.steps=2", "--set", "checkpoint.every=1", "--set", "teacher.retries=0")
    runs = taught.parent / "runs"
    local, remote = RunFolder(runs / "local"), RunFolder(runs / "remote")
    done = drpo("train", taught, *steps[:4], "--set", "run.name=local")
    assert done.returncode == 0, done.stderr
    good, rows = answering(taught.parent / "teacher"), 16  # of each step, and one before the first

    def answer(asked: Asked) -> Reply:
        fails = len(server.asked) > 1 + rows and not mended
        return Reply("out of memory", 500) if fails else good(asked)

    mended = False
    with serving(answer) as server:
        asks_the_endpoint(taught, f"{server.url}/v1")
        asked = ("train", taught, *steps, "--set", "run.name=remote")
        failed = drpo(*asked)
        assert failed.returncode == 2, failed.stderr
        said = " ".join(failed.stderr.split())
        assert f'teacher.url: {server.url}/v1 answered 500 ("out of memory")' in said
        assert "Traceback" not in failed.stderr
        assert [line["step"] for line in records(remote.metrics)] == [0, 1]
        mended = True
        again = drpo(*asked, "--resume")
        assert again.returncode == 0, again.stderr
    for one, other in zip(records(local.metrics)[1:], records(remote.metrics)[1:], strict=True):
        assert other["teacher_kl"] == pytest.approx(one["teacher_kl"], abs=1e-4)
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert other["teacher_retries"] == 0 and other["teacher_wait_s"] >= 0


def test_an_endpoint_that_cannot_teach_ends_the_run_before_it_starts(taught: Path) -> None:
    with serving(answering(taught.parent / "teacher", longest=32)) as server:
        asks_the_endpoint(taught, f"{server.url}/v1")
        done = drpo("train", taught)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert f"teacher.url: {server.url}/v1 answered 400 (" in said and "--max-model-len" in said
    done = drpo("check", taught, "--set", "rollout.temperature=0.7")
    assert done.returncode == 2 and "rollout.temperature: is 0.7, and an endpoint" in done.stderr


def asks_the_endpoint(spec: Path, url: str) -> None:
    """Puts the address in place of the teacher's folder."""
    own = f'url = "{url}"\nmodel = "tiny"\n'
    spec.write_text(spec.read_text().replace('path = "teacher"\n', own))


def test_a_teacher_behind_an_endpoint_needs_no_memory(taught: Path) -> None:
    asks_the_endpoint(taught, "http://127.0.0.1:9/v1")
    planned = drpo("plan", taught, "--json")
    assert planned.returncode == 0, planned.stderr
    assert "teacher" not in planned.stdout
    checked = " ".join(drpo("check", taught).stdout.split())
    assert "1 × log-probs of tiny at http://127.0.0.1:9/v1" in checked


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
