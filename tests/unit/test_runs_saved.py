"""The public reading of a run: typed, lazy, for data frames, without torch, of any version."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from drpo_cli.errors import UserError
from drpo_cli.runs.events import say
from drpo_cli.runs.metrics import StepMetrics
from drpo_cli.runs.saved import open_run
from support.reports import run_folder, sample_line, whole_run

DATA = sorted((Path(__file__).parents[1] / "data").glob("metrics-*.jsonl"))


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_every_key_of_a_recorded_run_is_in_the_type(path: Path) -> None:
    keys = {key for line in path.read_text().splitlines() for key in json.loads(line)}
    assert keys <= StepMetrics.__annotations__.keys()


def test_the_keys_in_the_docs_are_those_of_the_type() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    table = docs.split("## `metrics.jsonl`")[1].split("\n## ")[0]
    found: set[str] = set()
    for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE):
        first, *others = re.findall(r"`([^`]*)`", row)
        names = [first, *(re.sub(r"_[a-z]+$", n, first) if n[0] == "_" else n for n in others)]
        found |= {name.partition(".")[0] for name in names}
    quantiles = ("mean", "min", "p01", "p50", "p90", "p99", "max")
    for stem in [name.removesuffix("*") for name in found if name.endswith("*")]:
        found = (found - {f"{stem}*"}) | {f"{stem}{quantile}" for quantile in quantiles}
    assert found == StepMetrics.__annotations__.keys()


def test_what_a_notebook_reads(tmp_path: Path) -> None:
    folder = whole_run(tmp_path / "one", 20, samples=2)
    run = open_run(tmp_path / "one")
    assert [record["step"] for record in run.metrics] == list(range(21))
    assert run.last_step == 20 and run.steps is None and run.state == "stopped"
    assert run.spec["reward"][0] == {"type": "exact_match", "weight": 1.0}
    assert [score.step for score in run.held_out] == list(range(0, 21, 2))
    last = run.held_out[-1]
    assert last.score == run.final_score == pytest.approx(sum(last.rates) / 20)
    assert last.low == pytest.approx(last.score - 0.05) and last.unscored == 0
    samples = list(run.samples())
    assert len(samples) == 40 and samples[0]["completion"].startswith("step 1 sample 0")
    assert run.notes == () and run.versions == {"drpo": "0"}
    say(folder, "finished after step 20", "finished")
    assert run.state == "stopped"  # read once
    again = open_run(str(tmp_path / "one"))
    assert again.state == "finished" and again.events[-1]["text"] == "finished after step 20"


def test_metrics_and_scores_make_data_frames(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    whole_run(tmp_path, 20)
    run = open_run(tmp_path)
    frame = pandas.DataFrame(run.metrics_flat()).set_index("step")
    assert frame.loc[20, "rewards.exact_match"] == run.metrics[-1]["rewards"]["exact_match"]
    assert frame["seconds.step"].count() == 20
    assert not [
        name for name in frame if frame[name].map(lambda cell: isinstance(cell, dict)).any()
    ]
    assert list(pandas.DataFrame(run.held_out).columns[:4]) == ["step", "score", "low", "high"]
    assert len(pandas.DataFrame(run.samples())) == 80


def test_a_damaged_run_is_read_as_far_as_possible_and_says_what_is_missing(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    folder.spec.write_text("[run\nname")
    folder.versions.unlink()
    folder.metrics.write_text(
        '{"step": 1, "reward": 0.5}\nno json\n{"step": 2, "held_out": 0.5}\n{"st'
    )
    folder.samples.write_text(json.dumps(sample_line(1, 0, "\ud800", 1.0, {})) + "\nbroken\n")
    run = open_run(tmp_path)
    assert (run.spec, run.versions, run.steps, run.last_step) == ({}, {}, None, 2)
    assert run.final_score == 0.5 and run.held_out[0].rates == ()
    assert [sample["completion"] for sample in run.samples()] == ["\ud800"]
    spec, versions, cut, broken, samples = run.notes
    assert spec.startswith("spec.toml cannot be read: ")
    assert versions.startswith("versions.json cannot be read: ")
    assert cut == "the last line of metrics.jsonl was cut off, as by a kill; it is left out"
    assert broken == "metrics.jsonl: 1 line was skipped (line 2: not a JSON object)"
    assert samples == "samples.jsonl: 1 line was skipped (line 2: not a JSON object)"
    with folder.lock():
        assert not [note for note in open_run(tmp_path).notes if "cut off" in note]


def test_the_validated_spec_of_a_resolved_one(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    with pytest.raises(UserError):
        open_run(tmp_path).load_spec()
    folder.spec.write_text(
        '[run]\nname = "x"\nsteps = 3\n[model]\npath = "model"\n[[data]]\ntype = "arithmetic"\n'
        '[[reward]]\ntype = "exact_match"\n[objective]\ntype = "drpo"\ndelta = 0.3\n'
    )
    run = open_run(tmp_path)
    assert run.load_spec().run.steps == run.steps == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gone", "gone does not exist"), ("above", "above is not a run folder: it has no spec.toml")],
)
def test_what_is_not_a_run_is_refused(tmp_path: Path, name: str, expected: str) -> None:
    run_folder(tmp_path / "above" / "inside")
    with pytest.raises(UserError) as error:
        open_run(tmp_path / name)
    assert expected in str(error.value)
    assert name == "gone" or str(tmp_path / "above" / "inside") in error.value.fix


def test_reading_a_run_loads_nothing_heavy(tmp_path: Path) -> None:
    whole_run(tmp_path, 20)
    code = (
        "import sys; from drpo_cli.runs.saved import open_run\n"
        "run = open_run(sys.argv[1])\n"
        "run.metrics, run.held_out, run.state, run.spec, run.alerts, list(run.samples())\n"
        "sys.exit(str([m for m in ('torch', 'transformers', 'vllm', 'numpy') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert done.stderr == "[]\n"
