"""`drpo compare` on a tiny model: a grid runs, continues, grows and survives failures."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.command import drpo, drpo_here, records
from support.models import tiny_model

GRID = ("--vary", "objective=drpo:delta=0.2,spo", "--jobs", "2")
LONG = ("--set", "run.steps=3000", "--set", "checkpoint.every=0")
PATIENCE = 120


def runs(out: Path) -> dict[str, bytes]:
    """Every file of every run, and when it was written."""
    return {
        str(path.relative_to(out)): path.read_bytes() + str(path.stat().st_mtime_ns).encode()
        for path in out.glob("*/**/*")
        if path.is_file() and ".lock" not in path.name
    }


def start(out: Path, *arguments: object) -> subprocess.Popen[str]:
    """Starts a grid and waits until two of its runs have trained a little."""
    before = {path: len(records(path)) for path in out.glob("*/metrics.jsonl")}
    command = [sys.executable, "-m", "drpo_cli", "compare", *map(str, arguments), "--out", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + PATIENCE
    while sum(len(records(p)) > before.get(p, 0) + 2 for p in out.glob("*/metrics.jsonl")) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the runs never trained"
        time.sleep(0.1)
    return process


def processes(out: Path) -> list[int]:
    """Processes that have a file of the grid open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            open_files = [str(link.readlink()) for link in folder.iterdir()]
        except OSError:  # it ended while we looked
            continue
        if any(name.startswith(str(out)) for name in open_files):
            found.append(int(folder.parent.name))
    return found


def last_steps(out: Path) -> list[int]:
    return [records(path)[-1]["step"] for path in sorted(out.glob("*/metrics.jsonl"))]


def test_a_grid_runs_reports_and_grows_without_running_anything_twice(small: Path) -> None:
    out = small.parent / "runs" / "compare-run"
    first = drpo("compare", small, *GRID, "--seeds", "0-1", "--target", 0.5)
    assert first.returncode == 0, first.stderr
    assert "2 cells × 2 seeds = 4 runs, 0 finished" in first.stdout
    assert first.stdout.count(": held-out ") == 4 and "\n4/4  " in first.stdout
    assert first.stderr == ""
    assert {path.name for path in out.iterdir() if path.is_dir()} == {
        "drpo_delta0.2-seed0",
        "drpo_delta0.2-seed1",
        "spo-seed0",
        "spo-seed1",
    }
    for name in ("report.html", "table.md", "curves.svg", "curves.png", "grid.json"):
        assert (out / name).stat().st_size > 0
    seeds = [records(out / f"spo-seed{seed}" / "metrics.jsonl") for seed in (0, 1)]
    assert seeds[0][1]["grad_norm"] != seeds[1][1]["grad_norm"]

    before = runs(out)
    again = drpo("compare", small, *GRID, "--seeds", "0-1")
    assert again.returncode == 0 and "4 finished" in again.stdout
    assert runs(out) == before

    more = ("--vary", "objective=drpo:delta=0.2,spo,none", "--seeds", "0-2")
    grown = drpo("compare", small, *more)
    assert grown.returncode == 0, grown.stderr
    assert "3 cells × 3 seeds = 9 runs, 4 finished" in grown.stdout
    after = runs(out)
    assert {name: after[name] for name in before} == before
    assert len(json.loads((out / "compare.json").read_text())["runs"]) == 9

    other = drpo("compare", small, *GRID, "--set", "train.warmup_updates=2")
    assert other.returncode == 2
    assert "train.warmup_updates is 0 there, 2 here" in other.stderr
    assert runs(out) == after

    # the cells are ordinary runs
    finished = drpo("train", out / "spo-seed0" / "spec.toml")
    assert finished.returncode == 2 and "is finished after 2 steps" in finished.stderr


def test_a_run_of_a_grid_is_the_run_that_train_makes(small: Path) -> None:
    out = small.parent / "grid"
    done = drpo("compare", small, "--vary", "objective=spo", "--seeds", "3", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "no interval is printed" in done.stdout
    alone = ("--set", 'objective={type="spo"}', "--set", "run.seed=3")
    assert drpo("train", small, *alone).returncode == 0
    pairs = zip(
        records(out / "spo-seed3" / "metrics.jsonl"),
        records(small.parent / "runs" / "small" / "metrics.jsonl"),
        strict=True,
    )
    for mine, theirs in pairs:
        assert mine.get("held_out") == theirs.get("held_out")
        assert mine.get("reward") == theirs.get("reward")


def test_lag_base_models_and_tuning_in_one_grid(small: Path) -> None:
    tiny_model(small.parent / "other", seed=1)
    out = small.parent / "grid"
    grid = (
        *("compare", small, "--out", out, "--jobs", 2, "--target", 0.01),
        *("--vary", "objective=none,drpo", "--vary", "lag=2", "--bases", "model,other"),
        *("--tune", "drpo:delta=0.1,0.2", "--select-seeds", "0", "--report-seeds", "1", "--halve"),
        *("--set", "train.updates_per_rollout=1", "--set", "eval.every=0"),
    )
    done = drpo(*grid)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 candidates × 1 seeds = 2 runs, 0 finished" in done.stdout
    assert "2 cells × 2 base models × 1 seeds = 4 runs, 0 finished" in done.stdout
    names = {path.name for path in out.iterdir() if path.is_dir()}
    # with two candidates, the better one on the first base model is the chosen one
    tried = {f"drpo-lag2-delta{delta}-model-seed0" for delta in (0.1, 0.2)}
    assert tried < names and {"none-lag2-model-seed1", "none-lag2-other-seed1"} < names
    assert len(names) == 6
    found = json.loads((out / "compare.json").read_text())
    assert {tuple(step for step, _ in run["curve"]) for run in found["runs"]} == {(0, 2)}
    assert {run["seed"] for run in found["runs"]} == {1} and found["bases"] == ["model", "other"]
    assert [trial["chosen"] for trial in found["trials"]].count(True) == 2
    assert "Chosen by the final held-out avg@k" in done.stdout
    assert "updates to 1 %" in done.stdout and "of Student's t over base models" in done.stdout
    spec = (out / "none-lag2-other-seed1" / "spec.toml").read_text()
    assert "steps = 1\n" in spec and "prompts_per_step = 8\n" in spec

    before = runs(out)
    again = drpo(*grid)
    assert again.returncode == 0
    assert "2 runs, 2 finished" in again.stdout and "4 runs, 4 finished" in again.stdout
    assert runs(out) == before

    shown = drpo_here("compare", out / "compare.json", "--out", small.parent / "shown")
    assert shown.returncode == 0, shown.stderr
    table = (small.parent / "shown" / "table.md").read_text()
    assert table == (out / "table.md").read_text()
    refused = drpo_here("compare", out / "compare.json", "--seeds", "1")
    assert refused.returncode == 2 and "--seeds: has no effect on the results" in refused.stderr


def test_a_failed_run_is_shown_and_the_others_continue(small: Path) -> None:
    (small.parent / "bad.py").write_text(
        "def loss(config, tokens):\n    raise ArithmeticError('no such luck')\n"
    )
    out = small.parent / "grid"
    vary = ("--vary", "objective=./bad.py:loss,spo", "--seeds", "0-1")
    done = drpo("compare", small, *vary, "--out", out)
    assert done.returncode == 1
    assert done.stdout.count("failed: ArithmeticError: no such luck") == 2
    assert "Failed runs" in done.stdout and "Traceback" not in done.stdout + done.stderr
    found = json.loads((out / "compare.json").read_text())
    by_cell = {cell["point"]["objective"]: cell for cell in found["cells"]}
    assert by_cell["spo"]["finished"] == 2 and by_cell["spo"]["failed"] == 0
    assert by_cell["./bad.py:loss"]["failed"] == 2
    assert found["differences"] == []
    failed = [folder for folder in out.iterdir() if folder.name.startswith("bad")]
    watched = drpo("watch", *failed, "--once").stdout
    assert len(failed) == 2 and watched.count(" failed ") == 2
    assert all((folder / "report.html").exists() for folder in failed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--vary", "objective=drpo,drop"), "there is no objective 'drop'"),
        (("--vary", "objective=drpo", "--target", "60"), "is not a held-out score"),
        (("--vary", "eval.problems=4,5"), "different evaluation sets"),
        ((), "--vary: is missing"),
    ],
)
def test_a_mistake_is_reported_before_anything_runs(
    small: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = drpo("compare", small, *arguments)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr and "Traceback" not in done.stderr
    assert not list((small.parent / "runs").glob("*/*/spec.toml"))


def test_ctrl_c_saves_and_the_same_command_continues(small: Path) -> None:
    out = small.parent / "grid"
    process = start(out, small, *GRID, *LONG, "--seeds", "0-1")
    second = drpo("compare", small, *GRID, *LONG, "--seeds", "0-1", "--out", out)
    assert second.returncode == 2 and "is in use by another `drpo compare`" in second.stderr
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert shown.count("stopped after step") == 2 and "give the same command to continue" in shown
    saved = sorted(path.parent.name for path in out.glob("*/checkpoints/*/complete.json"))
    steps = last_steps(out)
    assert len(steps) == 2 == len(saved)
    assert processes(out) == []

    process = start(out, small, *GRID, *LONG, "--seeds", "0-1")
    assert all(now >= then for now, then in zip(last_steps(out), steps, strict=True))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    for path in out.glob("*/metrics.jsonl"):
        found = [line["step"] for line in records(path)]
        assert found == list(range(len(found)))  # no step lost or done twice


def test_a_killed_command_leaves_no_run_behind(small: Path) -> None:
    out = small.parent / "grid"
    process = start(out, small, *GRID, *LONG, "--seeds", "0")
    assert len(processes(out)) >= 2
    process.kill()
    process.communicate(timeout=PATIENCE)
    deadline = time.monotonic() + 10
    while processes(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes(out) == []


def test_a_run_killed_from_outside_is_shown_as_failed(small: Path) -> None:
    out = small.parent / "grid"
    process = start(out, small, *GRID, "--set", "run.steps=400", "--seeds", "0")
    victim = (out / "spo-seed0").resolve()
    (number,) = processes(victim)
    subprocess.run(["kill", "-9", str(number)], check=True)
    shown, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "spo, seed 0: failed: died with exit code -9 and recorded no error" in shown
    assert "drpo:delta=0.2, seed 0: held-out" in shown


def test_several_processes_a_run(small: Path) -> None:
    out = small.parent / "grid"
    arguments = ("--vary", "objective=spo", "--seeds", "0", "--nproc", "2", "--out", out)
    done = drpo("compare", small, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "spo-seed0" / "logs" / "rank1.log").stat().st_size > 0
