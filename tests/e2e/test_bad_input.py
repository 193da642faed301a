"""A user's mistake ends in one message and exit code 2, without a traceback or lost data."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.saved import open_run
from support.command import drpo, records
from support.models import tiny_model


def message(spec: Path, *arguments: object, **environment: str) -> str:
    done = drpo("train", spec, *arguments, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(re.findall(r"^error: |^1 error in ", done.stderr, re.MULTILINE)) == 1
    return done.stderr


def test_a_reward_that_raises_on_one_of_two_ranks(small: Path) -> None:
    (small.parent / "rewards.py").write_text(
        "import os\n\n\ndef broken(completion):\n    return {'0': 1.0}[os.environ['RANK']]\n"
    )
    said = message(small, "--set", 'reward[0]={type="./rewards.py:broken"}', "--nproc", 2)
    assert "reward 'broken', prompt arithmetic/" in said
    assert "KeyError: '1'" in said
    assert "rewards.py:5 in broken" in said
    assert "error: rank 1: " in said
    assert (small.parent / "runs" / "small" / "report.html").exists()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def bad(completion): return '1.0'", r"sample \d \('.*'\): returned '1.0' \(str\)"),
        ("import os\ndef bad(completion): os._exit(1)", r"sample \d .*: its process died: "),
        (
            "class bad:\n  def __init__(self): {}['key']\n  def __call__(self): return 1.0",
            r"reward 'bad': its set-up failed: KeyError: 'key' \(.*rewards.py:2 in __init__\)",
        ),
        (
            "def inner(): return 1 / 0\ninner()\ndef bad(completion): ...",
            r"ZeroDivisionError: .* \(.*rewards.py:2 in <module> → .*rewards.py:1 in inner\)",
        ),
    ],
)
def test_a_broken_reward(small: Path, source: str, expected: str) -> None:
    (small.parent / "rewards.py").write_text(source)
    said = message(small, "--set", 'reward[0]={type="./rewards.py:bad"}')
    assert re.search(expected, said), said


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('{"prompt": "1+1="}\n{"prompt": ', "rows.jsonl:2"),
        ("".join(f'{{"prompt": "{n}{"+1" * 20}="}}\n' for n in range(9)), "max_new_tokens"),
    ],
)
def test_broken_data(small: Path, lines: str, expected: str) -> None:
    (small.parent / "rows.jsonl").write_text(lines)
    table = 'type = "jsonl"\npath = "rows.jsonl"'
    small.write_text(small.read_text().replace('type = "arithmetic"\ndigits = 1', table))
    assert expected in message(small)


def test_more_processes_than_devices(small: Path) -> None:
    assert "CPU cores" in message(small, "--nproc", 4096)


def test_no_engine_installed(small: Path, tmp_path: Path) -> None:
    # an interpreter start-up file hides vllm, as if it were not installed
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['vllm'] = None\n")
    said = message(small, "--set", 'rollout.engine="vllm"', PYTHONPATH=f"{tmp_path}{os.pathsep}.")
    assert "drpo[cpu]" in said
    assert "drpo[gpu]" in said


def test_a_folder_in_use(small: Path) -> None:
    run = RunFolder(small.parent / "runs" / "small")
    run.path.mkdir(parents=True)
    run.spec.write_text(small.read_text())
    with run.lock():
        assert "is in use" in message(small, "--resume")


def test_a_full_disk_loses_nothing(small: Path) -> None:
    run = RunFolder(small.parent / "runs" / "small")
    (run.path / "logs").mkdir(parents=True)
    run.samples.symlink_to("/dev/full")
    said = message(small)
    assert "the disk is full" in said
    assert "--resume" in said
    run.samples.unlink()
    assert drpo("train", small, "--resume").returncode == 0
    assert [line["step"] for line in records(run.metrics)] == [0, 1, 2]


def test_a_service_may_start_a_run_without_standard_streams(small: Path) -> None:
    command = [sys.executable, "-m", "drpo_cli", "train", str(small)]
    closed = 'exec "$@" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", closed, "sh", *command]).returncode == 0
    run = open_run(small.parent / "runs" / "small")
    assert (run.state, run.notes) == ("finished", ()) and run.last_step == run.steps


def test_a_checkpoint_of_another_model(small: Path) -> None:
    assert drpo("train", small).returncode == 0
    tiny_model(small.parent / "model", num_hidden_layers=3)
    said = message(small, "--resume", "--set", "run.steps=3")
    assert "is a checkpoint of another model" in said
    assert "num_hidden_layers is 2 there, 3 here" in said


def test_a_model_that_does_not_load(small: Path) -> None:
    (small.parent / "model" / "model.safetensors").unlink()
    assert "model has no weights: neither model.safetensors" in message(small, "--nproc", 2)
