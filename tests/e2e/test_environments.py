"""`drpo train` with an environment on a real vLLM: exact tokens, and a run that continues."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import SampleRecord
from support.command import drpo, drpo_until, records, reproducible
from support.models import tiny_model

pytestmark = pytest.mark.engine

TIMED = ("sampling_s", "answer_s")


@pytest.fixture
def game(tmp_path: Path) -> Path:
    """The template of the guessing game with a random model; the path of its spec."""
    folder = tmp_path / "game"
    assert drpo("init", folder, "--template", "agent").returncode == 0
    tiny_model(folder / "model")
    return folder / "run.toml"


SMALL = (
    "--set", "run.steps=4", "--set", "rollout.prompts_per_step=4", "--set", "eval.problems=4",
    "--set", "eval.every=2", "--set", "checkpoint.every=1", "--set", "rollout.context_length=160",
    "--set", "rollout.in_rounds=true", "--set", "train.entropy_bonus=0.01",
)  # fmt: skip


def untimed(run: RunFolder) -> list[dict[str, Any]]:
    """The samples of a run without the seconds that they took."""
    lines = records(run.samples)
    for line in lines:
        line["turns"] = [{k: v for k, v in t.items() if k not in TIMED} for t in line["turns"]]
    return lines


def test_a_killed_run_of_episodes_continues_bit_for_bit(game: Path) -> None:
    runs = game.parent / "runs"
    whole, killed = RunFolder(runs / "whole"), RunFolder(runs / "killed")
    done = drpo("train", game, *SMALL, "--set", 'run.name="whole"')
    assert done.returncode == 0, done.stderr
    name = ("--set", 'run.name="killed"')
    code = drpo_until(killed.metrics, 3, signal.SIGKILL, "train", game, *SMALL, *name)
    assert code == -signal.SIGKILL
    assert drpo("train", game, *SMALL, *name, "--resume").returncode == 0
    assert untimed(killed) == untimed(whole)
    assert reproducible(killed.metrics) == reproducible(whole.metrics)
    assert records(killed.held_out) == records(whole.held_out)

    steps = records(whole.metrics)[1:]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(line["gap"] < 1e-5 for line in steps), "what was replayed is what was sampled"
    for line in untimed(whole):
        assert line.keys() == SampleRecord.__annotations__.keys()
        (row,) = line["rows"]
        own = [set(range(turn["first"], turn["end"])) for turn in line["turns"]]
        assert {t for t, mine in enumerate(row["sampled"]) if mine} == set().union(*own)
        assert len(line["turns"]) == 4 or line["reward"] == 1
    assert json.loads(whole.metrics.read_text().splitlines()[-1])["environments"]["Guess"]
    for line in steps:
        assert 0 < line["idle_share"] < 1 and "waited" not in line["seconds"]
