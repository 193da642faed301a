"""Named suites during a run: `[[eval.suite]]`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drpo_cli.runs.folder import RunFolder
from support.command import drpo, records

DIGITS = """
[suite]
title = "Responses with a digit"
source = "this file"
licence = "none"
problems = 5
[[data]]
type = "jsonl"
path = "problems.jsonl"
[[reward]]
type = "regex"
pattern = "[0-9]"
[eval]
samples_per_prompt = 4
temperature = 0.6
max_new_tokens = 5
"""
SUITES = """
[[eval.suite]]
name = "./digits.toml"
every = 1
[[eval.suite]]
name = "./few.toml"
every = 0
problems = 2
samples_per_prompt = 2
max_new_tokens = 1
"""


@pytest.fixture
def scored(small: Path) -> Path:
    """The spec of a run that is scored on two suites."""
    folder = small.parent
    (folder / "problems.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{a}-{a}="}) + "\n" for a in range(5))
    )
    for name in ("digits", "few"):
        (folder / f"{name}.toml").write_text(DIGITS)
    small.write_text(small.read_text() + SUITES)
    return small


def test_a_run_has_the_scores_that_its_checkpoints_have(scored: Path) -> None:
    done = drpo("train", scored)
    assert done.returncode == 0, done.stderr
    run = RunFolder(scored.parent / "runs" / "small")
    lines = records(run.metrics)
    assert [list(line.get("suites", {})) for line in lines] == [
        ["digits", "few"],
        ["digits"],
        ["digits", "few"],
    ]
    last = lines[-1]["suites"]["digits"]
    assert f"digits {last['score']:.3f}" in done.stdout
    assert lines[0]["suites"]["few"]["truncated_share"] >= 0.5  # of one token
    assert "avg@k on named suites" in run.report.read_text()

    out = scored.parent / "scores.json"
    settings = ("rollout.engine=transformers", "model.dtype=float32")
    words = [word for setting in settings for word in ("--set", setting)]
    suite = scored.parent / "digits.toml"
    done = drpo("eval", run.path, "--suite", suite, "--json", out, *words)
    assert done.returncode == 0, done.stderr
    (target,) = json.loads(out.read_text())["suites"]["digits"]["targets"].values()
    found = target["summary"]["avg@4"]
    assert 0 < found["value"] < 1  # else any two could be equal
    assert [found[key] for key in ("value", "low", "high")] == [
        last[key] for key in ("score", "low", "high")
    ]


def test_a_suite_is_compared_with_what_the_run_was_trained_on(scored: Path) -> None:
    folder = scored.parent
    scored.write_text(scored.read_text().replace(SUITES, ""))
    (folder / "problems.jsonl").write_text('{"prompt": "1+2="}\n{"prompt": "1-2="}\n')
    assert drpo("train", scored).returncode == 0
    out, run = folder / "scores.json", folder / "runs" / "small"
    settings = ("rollout.engine=transformers", "model.dtype=float32")
    words = [word for setting in settings for word in ("--set", setting)]
    words = ["--suite", str(folder / "digits.toml"), "--json", str(out), *words]
    done = drpo("eval", run, *words)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 held-out problems share 13 words in a row" in " ".join(done.stdout.split())
    overlap = json.loads(out.read_text())["suites"]["digits"]["overlap"]
    assert (overlap["same"], overlap["pairs"]) == (1, [["jsonl/0", "arithmetic/12"]])

    (folder / "gone.jsonl").write_text('{"prompt": "1+1="}\n')
    spec = RunFolder(run).spec
    spec.write_text(spec.read_text() + f'[[data]]\ntype = "jsonl"\npath = "{folder}/gone.jsonl"\n')
    (folder / "gone.jsonl").unlink()
    done = drpo("eval", run, *words)
    assert done.returncode == 0, done.stderr
    assert "the suites are not compared with the training data" in done.stdout
    assert "overlap" not in json.loads(out.read_text())["suites"]["digits"]


def test_ranks_share_the_problems(scored: Path) -> None:
    for ranks in (1, 2):
        words = ("--set", f"run.name=on-{ranks}", "--set", "run.steps=1", "--nproc", ranks)
        done = drpo("train", scored, *words)
        assert done.returncode == 0, done.stderr
    one, two = (
        records(RunFolder(scored.parent / "runs" / f"on-{ranks}").metrics)[0] for ranks in (1, 2)
    )
    assert one["suites"] == two["suites"]


def test_problems_of_a_suite_are_not_trained_on(scored: Path) -> None:
    (scored.parent / "problems.jsonl").write_text('{"prompt": "1+2="}\n')
    done = drpo("train", scored)
    assert done.returncode == 2
    assert "asks the same as the held-out problem jsonl/0 of the suite " in done.stderr
    done = drpo("train", scored, "--resume", "--set", "eval.overlap=drop")
    assert done.returncode == 0, done.stderr
    assert not any(
        line["prompt"] == "1+2="
        for line in records(RunFolder(scored.parent / "runs" / "small").samples)
    )


def test_what_does_not_fit_is_refused_before_the_first_step(scored: Path) -> None:
    done = drpo("train", scored, "--set", "eval.suite[0].max_new_tokens=40")
    assert done.returncode == 2
    assert "eval.suite digits: a response may have 40 tokens, and the context has 32" in done.stderr
    few = scored.parent / "few.toml"
    few.write_text(few.read_text() + "[rollout]\nstop = ['=']\n")
    for verb in ("check", "train"):
        done = drpo(verb, scored)
        assert done.returncode == 2, done.stdout
        assert "eval.suite[1]" in done.stderr
        assert "has [rollout], and a run has its own" in done.stderr
