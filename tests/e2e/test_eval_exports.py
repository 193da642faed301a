"""`drpo eval --export`: logs for other tools, of held-out problems and of suites."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.command import drpo

SUITE = """
[suite]
title = "Sums"
source = "this file"
licence = "none"
problems = 3
[[data]]
type = "jsonl"
path = "sums.jsonl"
[[reward]]
type = "exact_match"
[eval]
samples_per_prompt = 2
max_new_tokens = 3
"""


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_logs_of_held_out_problems_agree_with_the_scores(small: Path, tmp_path: Path) -> None:
    model, out, logs, theirs = small.parent / "model", *(tmp_path / name for name in "abc")
    words = ("eval", model, "--spec", small, "--samples", 4, "--json", out)
    done = drpo(*words, "--export", f"inspect={logs}", "--export", f"lm-eval={theirs}")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert f"wrote logs to {logs}: `inspect view --log-dir {logs}` shows them" in said
    scores = read(out)["targets"][str(model)]
    rate = scores["summary"]["avg@4"]["value"]

    (file,) = logs.iterdir()
    log = read(file)
    assert (log["eval"]["task"], log["eval"]["model"]) == ("held-out", str(model))
    assert log["results"]["scores"][0]["metrics"]["avg@4"]["value"] == rate
    assert {(one["id"], one["epoch"]) for one in log["samples"]} == {
        (problem["id"], epoch) for problem in scores["problems"] for epoch in range(1, 5)
    }
    texts = [text for problem in scores["problems"] for text in problem["texts"]]
    assert [one["output"]["completion"] for one in log["samples"]] == texts
    totals = [score for problem in scores["problems"] for score in problem["scores"]]
    assert [one["scores"]["length"]["value"] for one in log["samples"]] == totals

    (results,) = theirs.glob("*/results_*.json")
    assert read(results)["results"]["held-out"]["avg@4,none"] == rate
    (samples,) = results.parent.glob("samples_held-out_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [text for line in lines for text in line["resps"][0]] == texts


def test_each_target_and_suite_has_a_log(small: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(2)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(SUITE)
    model, logs, kept = small.parent / "model", tmp_path / "logs", tmp_path / "kept"
    suites = ",".join(str(tmp_path / f"{name}.toml") for name in ("one", "two"))
    settings = ("rollout.engine=transformers", "model.dtype=float32")
    words = [word for setting in settings for word in ("--set", setting)]
    command = ("eval", model, "--suite", suites, "--out", kept, *words)
    assert drpo(*command).returncode == 0
    done = drpo(*command, "--export", f"inspect={logs}", "--export", f"lm-eval={logs}")
    assert done.returncode == 0, done.stderr  # with responses that were kept before
    found = {log["eval"]["task"]: log for log in map(read, logs.glob("*.json"))}
    assert found.keys() == {"one", "two"}
    assert all(log["eval"]["config"]["limit"] == 2 for log in found.values())  # of 3
    assert all(len(log["samples"]) == 4 for log in found.values())
    (results,) = logs.glob("*/results_*.json")
    assert read(results)["results"].keys() == {"one", "two"}
    assert len([*logs.glob("*/samples_*.jsonl")]) == 2
    assert not [*logs.rglob("*.partial")]

    refused = drpo(*command, "--export", "inspect")
    assert (refused.returncode, "is not FORMAT=DIR" in refused.stderr) == (2, True)
    refused = drpo(*command, "--export", f"inspect={tmp_path / 'sums.jsonl'}")
    assert (refused.returncode, "something else is there already" in refused.stderr) == (2, True)
