"""The templates reasoning, math and code as a stranger meets them: `init`, `check`, `sh try.sh`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.runs.folder import RunFolder
from drpo_cli.spec import load
from support.command import PATIENCE, drpo, records

pytestmark = pytest.mark.engine

REWARDS = {
    "reasoning": {"reasoning_gym", "format", "repetition"},
    "math": {"math_verify", "boxed", "repetition"},
    "code": {"python_tests", "fenced", "repetition"},
}


@pytest.mark.parametrize("name", REWARDS)
def test_a_template_runs_end_to_end_without_a_download(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    made = drpo("init", folder, "--template", name)
    assert made.returncode == 0, made.stderr
    checked = drpo("check", folder / "run.toml")
    assert checked.returncode == 0, checked.stderr
    assert "warning" not in checked.stdout + checked.stderr

    tried = try_out(folder, tmp_path)
    assert tried.returncode == 0, tried.stderr + tried.stdout
    run = RunFolder(folder / "runs" / "try")
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000003"]
    assert str(run.report) in tried.stdout
    assert all(reward in run.report.read_text() for reward in REWARDS[name])
    assert not run.quarantine.exists() or records(run.quarantine) == []
    base, *steps = records(run.metrics)
    assert_steps(steps, REWARDS[name])
    assert base["held_out"] == steps[-1]["held_out"] == 0.0  # a random model is right by accident
    assert_samples(records(run.samples), REWARDS[name], folder)


def try_out(folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """`sh try.sh`, with this Python's `python` and `drpo` first on the path."""
    commands = {"drpo": "-m drpo_cli", "python": ""}
    for command, module in commands.items():
        (path / command).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (path / command).chmod(0o755)
    return subprocess.run(
        ["sh", folder / "try.sh"],
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def assert_steps(steps: list[dict[str, Any]], rewards: set[str]) -> None:
    assert [line["step"] for line in steps] == [1, 2, 3]
    for line in steps:
        assert line["rewards"].keys() == line["grading"].keys() == rewards
        assert [use["failures"] for use in line["grading"].values()] == [{}] * len(rewards)
        assert min(use["calls"] for use in line["grading"].values()) >= 8
        assert line["skipped_updates"] == line["skipped_samples"] == 0 < line["grad_norm"]
        assert line["gap"] < 1e-4


def assert_samples(samples: list[dict[str, Any]], rewards: set[str], folder: Path) -> None:
    rollout = load(folder / "run.toml").rollout.config.model_dump()
    assert len(samples) == 3 * 2 * 4
    for sample in samples:
        assert sample["rewards"].keys() == rewards
        assert None not in (sample["reward"], *sample["rewards"].values())
        assert sample["prompt"].startswith("<|start|>")
        assert sample["prompt"].endswith("<|start|>assistant\n")
        assert 0 < sample["tokens"] <= 48 < rollout["max_new_tokens"]
    assert len({sample["prompt_id"] for sample in samples}) == 6


def test_the_agent_that_repairs_code_runs_end_to_end_without_a_download(tmp_path: Path) -> None:
    folder = tmp_path / "agent-code"
    assert drpo("init", folder, "--template", "agent-code").returncode == 0
    checked = drpo("check", folder / "run.toml")
    assert checked.returncode == 0, checked.stderr
    assert "warning" not in checked.stdout + checked.stderr

    tried = try_out(folder, tmp_path)
    assert tried.returncode == 0, tried.stderr + tried.stdout
    run = RunFolder(folder / "runs" / "try")
    base, *steps = records(run.metrics)
    assert base["held_out"] == 0.0
    assert [line["gap"] < 1e-4 for line in steps] == [True] * 3
    for sample in records(run.samples):
        assert len(sample["turns"]) == 2 and sample["end"] in ("max_turns", "context")
        said = [message["content"] for message in sample["messages"] if message["role"] == "user"]
        assert said[1].endswith("Correct the code, and write all of it again.")
