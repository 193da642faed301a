"""`drpo runs` lists and compares runs by their files, damaged or not, of any version."""

from __future__ import annotations

import json
import os
import pty
import re
from pathlib import Path

import pytest
import tomli_w

from drpo_cli.runs.flat import flatten
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Records
from drpo_cli.runs.saved import SavedRun
from drpo_cli.runs.summary import RunSummary, ScoreSummary, compare_values, summarize
from drpo_cli.tools import runs
from support.command import drpo
from support.reports import CLEAN, run_folder, write_steps


def a_run(path: Path, steps: int = 4, scores: tuple[float, ...] = (0.2, 0.6, 0.5)) -> RunFolder:
    """A finished run of so many steps: scores of the untrained model, then of the last steps."""
    path.mkdir(parents=True)
    run = run_folder(path)
    spec = {
        "run": {"name": path.name, "steps": steps, "folder": str(path.parent)},
        "model": {"path": str(path.parent / "model"), "dtype": "float32"},
        "data": [{"type": "arithmetic", "digits": 2}, {"type": "arithmetic", "digits": 3}],
        "reward": [{"type": "exact_match", "name": "right", "weight": 1.0}],
        "objective": {"type": "drpo", "delta": 0.2},
    }
    run.spec.write_text(tomli_w.dumps(spec))
    run.versions.write_text(json.dumps({"packages": {"drpo": "0.1.0"}, "cores": 2}))
    Records(run.metrics).append({"step": 0, "held_out_set": "abc", "held_out": scores[0]})
    write_steps(run, CLEAN, steps)
    lines = run.metrics.read_text().splitlines()
    for at, score in zip(range(-len(scores) + 1, 0), scores[1:], strict=True):
        lines[at] = json.dumps(json.loads(lines[at]) | {"held_out": score})
    run.metrics.write_text("".join(f"{line}\n" for line in lines))
    return run


def facts(run: RunFolder) -> RunSummary:
    return summarize(SavedRun(run))


def test_a_run_is_told_from_its_files(tmp_path: Path) -> None:
    run = a_run(tmp_path / "one")
    (run.checkpoints / "step-000004" / "state").mkdir(parents=True)
    (run.checkpoints / "step-000004" / "state" / "weights").write_bytes(b"x" * 100_000)
    found = facts(run)
    assert (found.state, found.done, found.steps) == ("finished", 4, 4)
    assert found.held_out == ScoreSummary(0.2, 0.5, 0.6, 3, "abc")
    assert found.seconds == pytest.approx(4 * 3.1)
    assert found.objective == "drpo delta 0.2" and found.notes == ()
    on_disk = sum(f.stat().st_size for f in run.path.rglob("*") if f.is_file())
    assert found.size == on_disk > 100_000
    with run.lock():
        assert facts(run).state == "running"


def test_damaged_runs_are_listed_with_what_is_wrong(tmp_path: Path) -> None:
    cut, toml, bare = (a_run(tmp_path / name) for name in ("cut", "toml", "bare"))
    cut.metrics.write_text(cut.metrics.read_text() + '{"step": 5, "rew')
    toml.spec.write_text("[run\nname")
    bare.metrics.unlink()
    (bare.path / "logs").mkdir()
    bare.record_error(0, 1, "boom")
    by_name = {each.path.name: each for each in map(facts, (cut, toml, bare))}
    assert by_name["cut"].done == 4
    assert "last line of metrics.jsonl was cut off" in by_name["cut"].notes[0]
    assert "spec.toml cannot be read" in by_name["toml"].notes[0]
    assert by_name["toml"].steps is None and by_name["toml"].done == 4
    assert (by_name["bare"].state, by_name["bare"].done) == ("failed", 0)
    with cut.lock():
        assert facts(cut).notes == ()  # it is being written


def test_the_command_lists_what_it_finds_newest_first(tmp_path: Path) -> None:
    for age, name in enumerate(("grid/seed-1", "grid/seed-0", "alone")):
        run = a_run(tmp_path / "runs" / name)
        for file in (run.metrics, run.spec, run.versions):
            os.utime(file, (1e9 - age, 1e9 - age))
    (tmp_path / "runs" / "circle").symlink_to(tmp_path)
    (tmp_path / "runs" / "no-run").mkdir()
    (tmp_path / "runs" / "no-run" / "spec.toml").write_text("")
    done = drpo("runs", tmp_path)
    head, *rows = done.stdout.splitlines()
    assert head.split() == list(runs.HEADINGS)
    assert [row.split()[0] for row in rows] == [
        "runs/grid/seed-1",
        "runs/grid/seed-0",
        "runs/alone",
    ]
    assert "finished" in rows[0] and "20.0% → 50.0% (60.0%)" in rows[0] and "0:00:12" in rows[0]
    listed = json.loads(drpo("runs", "list", tmp_path / "runs", "--json").stdout)
    assert [Path(run["path"]).name for run in listed["runs"]] == ["seed-1", "seed-0", "alone"]
    assert listed["runs"][0]["held_out"]["best"] == 0.6


def test_where_it_looks_and_that_there_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs.list_runs(None, False)
    assert capsys.readouterr().out == "there are no runs in . or below\n"
    a_run(tmp_path / "runs" / "mine")
    a_run(tmp_path / "elsewhere" / "other")
    runs.list_runs(None, False)
    shown = capsys.readouterr().out
    assert "mine" in shown and "other" not in shown
    runs.list_runs(tmp_path / "elsewhere" / "other", False)
    assert capsys.readouterr().out.splitlines()[1].startswith("other  finished")


def test_a_difference_is_of_specs_versions_and_scores(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "x" / "a"), a_run(tmp_path / "y" / "b", scores=(0.2, 0.9))
    text = b.spec.read_text().replace("delta = 0.2", "delta = 0.05\ndelta_low = 0.1")
    text = text.replace("weight = 1.0", "weight = 0.5").replace("digits = 3", "digits = 4")
    b.spec.write_text(text)
    b.versions.write_text(json.dumps({"packages": {"drpo": "0.0.9"}, "cores": 2}))
    done = drpo("runs", "diff", a.path, b.path, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    loud = {d["key"]: (d["a"], d["b"]) for d in found["spec"] if not d["quiet"]}
    assert loud == {
        "objective.delta": (0.2, 0.05),
        "objective.delta_low": (None, 0.1),
        "reward[right].weight": (1.0, 0.5),
        "data[arithmetic #2].digits": (3, 4),
    }
    assert {d["key"] for d in found["spec"] if d["quiet"]} == {
        "run.name",
        "run.folder",
        "model.path",
    }
    assert [d["key"] for d in found["versions"]] == ["packages.drpo"]
    assert found["held_out"]["b"]["last"] == 0.9 and found["same_problems"] is True
    shown = drpo("runs", "diff", a.path, b.path).stdout
    assert re.search(r"objective\.delta_low +– +0\.1\n", shown)
    assert shown.index("20.0% → 90.0%") < shown.index("names and folders") < shown.index("run.name")


def test_a_run_of_an_older_version_differs_and_lists(tmp_path: Path) -> None:
    new, old = a_run(tmp_path / "new"), run_folder(mkdir(tmp_path / "old"))
    old.spec.write_text('[train]\nlogprob_chunk_tokens = 1024\n[run]\nname = "old"\n[reference]\n')
    Records(old.metrics).append({"step": 1, "loss": 0.5})
    Records(old.metrics).append({"step": 2, "held_out": 0.4, "seconds": 3})
    old.metrics.write_text(old.metrics.read_text() + '{"step"')
    (row,) = json.loads(drpo("runs", old.path, "--json").stdout)["runs"]
    assert (row["state"], row["done"], row["steps"], row["seconds"]) == ("stopped", 2, None, 0)
    found = json.loads(drpo("runs", "diff", new.path, old.path, "--json").stdout)
    values = {d["key"]: (d["a"], d["b"]) for d in found["spec"]}
    assert values["train.logprob_chunk_tokens"] == (None, 1024)
    assert values["reference"] == (None, {}) and values["model.dtype"] == ("float32", None)
    assert found["same_problems"] is None and "cut off" in found["notes"][0]
    assert {d["key"] for d in found["versions"]} == {"packages.drpo", "cores", "drpo"}


def mkdir(path: Path) -> Path:
    path.mkdir()
    return path


def test_equal_runs_and_folders_that_are_none(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    assert "the specs are the same" in drpo("runs", "diff", run.path, run.path).stdout
    for bad, what in ((tmp_path, "is not a run folder"), (tmp_path / "gone", "does not exist")):
        done = drpo("runs", "diff", run.path, bad)
        assert done.returncode == 2 and what in done.stderr
        assert "Traceback" not in done.stderr
    assert "does not exist" in drpo("runs", tmp_path / "gone").stderr
    (tmp_path / "diff").mkdir()
    done = drpo("runs", tmp_path / "diff")
    assert done.stdout == f"there are no runs in {tmp_path / 'diff'} or below\n"


def test_tables_go_by_their_names_and_paths_by_their_last() -> None:
    spec = {
        "environment": [{"type": "/a/environments.py:Guess", "name": "guess"}],
        "reward": [{"type": "/a/rewards.py:tidy"}, {"type": "regex", "name": "tidy"}],
        "eval": {"data": [{"type": "jsonl", "name": "part"}]},
        "stop": ["a"],
    }
    assert [key for key, _ in flatten(spec)] == [
        "environment[guess].type",
        "environment[guess].name",
        "reward[tidy].type",
        "reward[tidy #2].type",
        "reward[tidy #2].name",
        "eval.data[jsonl].type",
        "eval.data[jsonl].name",
        "stop",
    ]
    a, b = {"p": "/x/model", "q": "/x/a", "r": 1}, {"p": "/y/model", "q": "/x/b", "r": 1}
    assert [(d.key, d.quiet) for d in compare_values(a, b)] == [("p", True), ("q", False)]


@pytest.mark.parametrize("columns", [20, 60, 120])
def test_a_terminal_of_any_width_shows_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    found = [facts(a_run(tmp_path / f"run-{number}")) for number in range(2)]
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        runs.show_runs(found, tmp_path, stream)
        stream.flush()
        text = os.read(ours, 1 << 16).decode()
    assert "\x1b[32mfinished" in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= columns
    squeezed = re.sub(r"\s", "", plain)
    assert squeezed.count("20.0%→50.0%(60.0%)") == 2 and "run-0" in squeezed
