"""The supervised warm-up end to end: it teaches, is saved, and a killed run continues."""

import signal
from pathlib import Path

import pytest

from drpo_cli.runs.checkpoints import read
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.saved import open_run
from support.command import drpo, drpo_until, records, reproducible

WARM_UP = """
[[sft.data]]
type = "jsonl"
path = "answers.jsonl"
[sft]
updates = 60
examples_per_update = 16
learning_rate = 5e-3
schedule = "linear"
"""
UPDATES = 60


@pytest.fixture
def warmed(small: Path) -> Path:
    """A run that learns, before its first step, to answer everything with `7`."""
    rows = "".join(f'{{"prompt": "{a}+{b}=", "answer": "7"}}\n' for a in range(9) for b in range(9))
    (small.parent / "answers.jsonl").write_text(rows)
    small.write_text(small.read_text() + WARM_UP)
    return small


def test_a_run_learns_answers_first_and_continues_bit_for_bit(warmed: Path) -> None:
    runs = warmed.parent / "runs"
    whole, killed = RunFolder(runs / "whole"), RunFolder(runs / "killed")
    longer = ("--set", "run.steps=4", "--set", "checkpoint.every=1")
    done = drpo("train", warmed, *longer, "--set", "run.name=whole")
    assert done.returncode == 0, done.stderr
    updates = records(whole.warm_up)
    assert [line["step"] for line in updates] == [*range(1, UPDATES + 1)]
    assert updates[-1]["loss"] < 0.1 < 2 < updates[0]["loss"]
    assert 0 == updates[-1]["learning_rate"] < updates[0]["learning_rate"] < 5e-3
    texts = [line["completion"] for line in records(whole.samples) if line["step"] == 1]
    assert texts.count("7") > 0.8 * len(texts)
    assert "warm-up: update 60 of 60" in done.stdout + done.stderr
    page = whole.report.read_text()
    assert "supervised warm-up" in page

    name = ("--set", "run.name=killed")
    drpo_until(killed.warm_up, 20, signal.SIGKILL, "train", warmed, *longer, *name)
    assert not records(killed.metrics)
    drpo_until(killed.metrics, 1, signal.SIGKILL, "train", warmed, *longer, *name, "--resume")
    again = drpo("train", warmed, *longer, *name, "--resume")
    assert again.returncode == 0, again.stderr
    assert "warm-up: update" not in again.stdout + again.stderr
    assert records(killed.warm_up) == updates
    assert reproducible(killed.metrics) == reproducible(whole.metrics)


def test_a_warm_up_alone_on_two_ranks_is_a_run_to_begin_from(warmed: Path) -> None:
    runs = warmed.parent / "runs"
    alone = ("--set", "run.steps=0", "--set", "sft.stop_at=0.5")
    for name, ranks in (("one", 1), ("two", 2)):
        done = drpo("train", warmed, *alone, "--set", f"run.name={name}", "--nproc", ranks)
        assert done.returncode == 0, done.stderr
    one, two = (records(RunFolder(runs / name).warm_up) for name in ("one", "two"))
    assert UPDATES > len(one) == len(two) and len(one) % 10 == 9  # it looks every 10 updates
    losses = ([line["loss"] for line in lines] for lines in (one, two))
    assert next(losses) == pytest.approx(next(losses), rel=1e-3, abs=1e-3)
    base = open_run(runs / "one").held_out
    assert [score.step for score in base] == [0]

    plain = warmed.with_name("plain.toml")
    plain.write_text(warmed.read_text().replace(WARM_UP, ""))
    done = drpo("train", plain, "--from", runs / "one", "--set", "run.name=after")
    assert done.returncode == 0, done.stderr
    after = RunFolder(runs / "after")
    assert open_run(after.path).held_out[0].score == base[0].score
    texts = [line["completion"] for line in records(after.samples) if line["step"] == 1]
    assert texts.count("7") > 0.3 * len(texts)


def test_a_warm_up_continues_where_it_was_stopped_or_last_saved(warmed: Path) -> None:
    runs = warmed.parent / "runs"
    whole, cut = RunFolder(runs / "whole"), RunFolder(runs / "cut")
    words = ("--set", "run.steps=0", "--set", "sft.updates=300", "--set", "sft.save_every=40")
    done = drpo("train", warmed, *words, "--set", "run.name=whole")
    assert done.returncode == 0, done.stderr
    own = ("train", warmed, *words, "--set", "run.name=cut")
    assert drpo_until(cut.warm_up, 5, signal.SIGINT, *own) == 128 + signal.SIGINT
    assert open_run(cut.path).state == "stopped" and not records(cut.metrics)
    stopped = read(cut.checkpoints / "step-000000")["warm_up"]
    assert 5 <= stopped < 300
    drpo_until(cut.warm_up, stopped + 90, signal.SIGKILL, *own, "--resume")
    assert read(cut.checkpoints / "step-000000")["warm_up"] > stopped
    again = drpo(*own, "--resume")
    assert again.returncode == 0, again.stderr
    assert "warm-up: continues after update" in again.stdout + again.stderr
    assert records(cut.warm_up) == records(whole.warm_up)
    assert reproducible(cut.metrics) == reproducible(whole.metrics)
    finished = drpo(*own, "--resume")
    assert (finished.returncode, "is finished after 0 steps" in finished.stderr) == (2, True)
