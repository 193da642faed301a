"""`drpo train` on the quickstart with a real vLLM: it learns, is killed, continues and stops."""

import shutil
import signal
from pathlib import Path

import pytest

from drpo_cli.runs.folder import RunFolder
from drpo_cli.spec import load
from support.command import drpo, drpo_until, records, reproducible
from support.models import tiny_model

pytestmark = pytest.mark.engine

SHORT = (
    "--set", "run.steps=12", "--set", "eval.every=4", "--set", "eval.problems=100",
    "--set", "checkpoint.every=3", "--set", "checkpoint.keep=2",
)  # fmt: skip


def test_a_killed_run_continues_bit_for_bit(quickstart: Path) -> None:
    """Also checks what a whole run leaves, and that it has learned something."""
    runs = quickstart.parent / "runs"
    whole, killed = RunFolder(runs / "whole"), RunFolder(runs / "killed")
    done = drpo("train", quickstart, *SHORT, "--set", 'run.name="whole"')
    assert done.returncode == 0, done.stderr
    assert str(whole.report) in done.stdout

    name = ("--set", 'run.name="killed"')
    code = drpo_until(killed.metrics, 7, signal.SIGKILL, "train", quickstart, *SHORT, *name)
    assert code == -signal.SIGKILL
    assert drpo("train", quickstart, *SHORT, *name).returncode == 2  # without --resume
    assert drpo("train", quickstart, *SHORT, *name, "--resume").returncode == 0
    assert reproducible(killed.metrics) == reproducible(whole.metrics)
    assert records(killed.samples) == records(whole.samples)
    assert records(killed.held_out) == records(whole.held_out)

    assert_is_complete(whole)
    scores = [line["held_out"] for line in records(whole.metrics) if "held_out" in line]
    assert len(scores) == 4  # steps 0, 4, 8, 12
    assert scores[-1] > scores[0] + 0.1


def assert_is_complete(run: RunFolder) -> None:
    assert load(run.spec).run.steps == 12
    assert '"torch"' in run.versions.read_text()
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == [
        "step-000009",
        "step-000012",
    ]
    assert run.log(0).stat().st_size > 0
    assert "Held-out: base" in run.report.read_text()
    steps = records(run.metrics)
    assert [line["step"] for line in steps] == list(range(13))
    assert_scores_add_up(run)
    wanted = {
        "reward", "reward_std", "rewards", "zero_advantage_groups", "response_length",
        "truncated_share", "ratio_mean", "ratio_p99", "ratio_max", "shift_mean", "shift_p99",
        "shift_max", "weight_mean", "corrective_share", "gap", "entropy", "grad_norm",
        "skipped_updates", "tokens_per_second", "seconds", "peak_memory_gib",
    }  # fmt: skip
    assert all(wanted <= set(line) for line in steps[1:])
    assert all(line["gap"] < 1e-5 for line in steps[1:])


def assert_scores_add_up(run: RunFolder) -> None:
    """Each evaluation's score is the mean over its 100 problems."""
    means = {line["step"]: sum(line["rates"]) / 100 for line in records(run.held_out)}
    scores = {line["step"]: line["held_out"] for line in records(run.metrics) if "held_out" in line}
    assert means == pytest.approx(scores) and list(means) == [0, 4, 8, 12]
    assert {len(line["rates"]) for line in records(run.held_out)} == {100}


def test_signals_save_and_another_world_size_continues(quickstart: Path) -> None:
    run = RunFolder(quickstart.parent / "runs" / "quickstart")
    command = ("train", quickstart, *SHORT)
    assert drpo_until(run.metrics, 1, signal.SIGTERM, *command) == 143
    (saved,) = run.checkpoints.iterdir()
    last = records(run.metrics)[-1]["step"]
    assert saved.name == f"step-{last:06d}"

    twin = RunFolder(run.path.with_name("twin"))
    shutil.copytree(run.path, twin.path)
    assert drpo_until(run.metrics, last + 1, signal.SIGINT, *command, "--resume") == 130

    alone, ours = sampled_at(run, last + 1), ("--set", 'run.name="twin"', "--resume")
    done = drpo(*command, *ours, "--nproc", 2)
    assert done.returncode == 0, done.stderr
    run, both = twin, sampled_at(twin, last + 1)
    assert len(alone.keys() & both) > 1  # each process records the first of its share
    assert all(alone[prompt] == both[prompt] for prompt in alone.keys() & both)
    assert [line["step"] for line in records(run.metrics)] == list(range(13))
    assert all(line["gap"] < 1e-5 for line in records(run.metrics)[1:])
    assert run.log(1).stat().st_size > 0
    assert_scores_add_up(run)

    finished = drpo(*command, *ours)
    assert finished.returncode == 2
    assert "is finished after 12 steps" in finished.stderr
    assert "Traceback" not in finished.stderr


def sampled_at(run: RunFolder, step: int) -> dict[str, list[str]]:
    """The responses to each prompt on record of a step."""
    found: dict[str, list[str]] = {}
    for line in records(run.samples):
        if line["step"] == step:
            found.setdefault(line["prompt_id"], []).append(line["completion"])
    return found


MIXTURE = """
[run]
name = "mixture"
steps = 2
[model]
path = "model"
dtype = "bfloat16"
[[data]]
type = "reasoning_gym"
task = "chain_sum"
size = 100
[rollout]
prompts_per_step = 4
samples_per_prompt = 4
max_new_tokens = 8
stop = ["\\n"]
[[reward]]
type = "reasoning_gym"
[[reward]]
type = "./rewards.py:variety"
weight = 0.5
[advantage]
type = "group_norm"
[train]
updates_per_rollout = 2
learning_rate = 1e-3
gradient_checkpointing = true
[eval]
problems = 4
samples_per_prompt = 2
"""


def test_a_mixture_of_experts_in_bfloat16_on_two_ranks(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model", "qwen3_moe")
    (tmp_path / "run.toml").write_text(MIXTURE)
    (tmp_path / "rewards.py").write_text(
        "async def variety(completion):\n    return len(set(completion)) / 10\n"
    )
    done = drpo("train", tmp_path / "run.toml", "--nproc", 2)
    assert done.returncode == 0, done.stderr
    first, *steps = records(RunFolder(tmp_path / "runs" / "mixture").metrics)
    assert first["step"] == 0
    assert [set(line["rewards"]) for line in steps] == [{"reasoning_gym", "variety"}] * 2
    assert all(0 < line["gap"] < 0.05 for line in steps)
    assert all(line["skipped_updates"] == 0 < line["grad_norm"] for line in steps)
