"""Optional parts of a run, end to end: a critic, a reference, dynamic sampling, baselines."""

import signal
from pathlib import Path

from drpo_cli.runs.folder import RunFolder
from drpo_cli.spec.presets import PRESETS
from support.command import drpo, drpo_until, records, reproducible

SETTINGS = (
    'advantage={type = "gae", gae_lambda = 0.9}',
    "critic.warmup_steps=1",
    "critic.learning_rate=1e-3",
    'reference.kl="k3"',
    'train.anchor="trainer"',
    "train.importance_cap=2.0",
    "train.entropy_bonus=0.01",
    'train.reduction="fixed_horizon"',
    'train.overlong="mask"',
    "rollout.dynamic_sampling_rounds=1",
    'rollout.weight_rounding="int8"',
    "run.steps=6",
    "checkpoint.every=2",
    "eval.every=0",
)
SWITCHED_ON = [word for setting in SETTINGS for word in ("--set", setting)]


def test_a_run_with_every_part_continues_bit_for_bit_after_a_kill(small: Path) -> None:
    runs = small.parent / "runs"
    whole, killed = RunFolder(runs / "whole"), RunFolder(runs / "killed")
    done = drpo("train", small, *SWITCHED_ON, "--set", "run.name=whole")
    assert done.returncode == 0, done.stderr
    name = ("--set", "run.name=killed")
    drpo_until(killed.metrics, 3, signal.SIGKILL, "train", small, *SWITCHED_ON, *name)
    again = drpo("train", small, *SWITCHED_ON, *name, "--resume")
    assert again.returncode == 0, again.stderr
    assert reproducible(killed.metrics) == reproducible(whole.metrics)
    steps = records(whole.metrics)[1:]
    wanted = {"value_loss", "explained_variance", "reference_kl", "sampling_rounds"}
    assert all(wanted <= set(line) for line in steps)
    # only the critic learns in the first step, and nothing without a token: until then, the
    # policy is the reference
    learned = [line["step"] for line in steps[1:-1] if line["trained_tokens"]]
    assert learned
    for line in steps:
        assert (line["reference_kl"] < 1e-9) == (line["step"] <= learned[0])


def test_a_critic_and_a_reference_on_two_processes(small: Path) -> None:
    done = drpo("train", small, *SWITCHED_ON, "--set", "run.name=two", "--nproc", 2)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in records(small.parent / "runs/two/metrics.jsonl")] == [
        *range(7)
    ]


def test_every_preset_trains(small: Path) -> None:
    """All but `ppo`, whose critic is a section of its own; the tests above train its parts."""
    small.write_text(small.read_text().replace("updates_per_rollout = 2\n", ""))
    named = [preset for preset in PRESETS if preset != "ppo"]
    grid = ("--vary", f"objective={','.join(named)}", "--seeds", "0", "--jobs", 2)
    done = drpo("compare", small, *grid)
    assert done.returncode == 0, done.stderr
    found = sorted((small.parent / "runs" / "compare-run").glob("*/metrics.jsonl"))
    assert len(found) == len(named)
    for path in found:
        steps = records(path)[1:]
        assert [line["step"] for line in steps] == [1, 2]
        assert all(line["skipped_updates"] == 0 < line["trained_tokens"] for line in steps)
