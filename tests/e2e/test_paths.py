"""The whole life of a run in a folder whose name means something to shells, globs and parsers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drpo_cli.cli import app
from support.command import drpo
from support.models import tiny_model
from support.paths import NASTY

SPEC = """
[run]
name = "small"
folder = "ru ns [1]"
steps = 1
[model]
path = "mo [d] el"
dtype = "float32"
[[data]]
type = "parquet"
path = "r [1]*.parquet"
[rollout]
engine = "transformers"
prompts_per_step = 4
samples_per_prompt = 2
max_new_tokens = 4
context_length = 32
[[reward]]
type = "./re wards [1].py:fn"
[train]
updates_per_rollout = 1
[eval]
problems = 4
samples_per_prompt = 2
[reference]
path = "mo [d] el"
"""


def test_a_run_lives_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    folder = Path(NASTY)
    monkeypatch.chdir(tmp_path)
    folder.mkdir()
    tiny_model(folder / "mo [d] el")
    (folder / "run.toml").write_text(SPEC)
    (folder / "re wards [1].py").write_text("def fn(completion): return len(completion) % 2\n")
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(20)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "r [1]*.parquet")
    spec, runs = folder / "run.toml", folder / "ru ns [1]"

    def in_process(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert f"{spec} is valid" in in_process("check", "--", spec)
    assert "parquet/" in in_process("data", "show", "--", spec)
    done = drpo("train", "--", spec)
    assert done.returncode == 0, done.stderr
    run, exported = runs / "small", folder / "ex [p]"
    in_process("export", "--", run, exported)
    assert (exported / "config.json").is_file()
    done = drpo("eval", "--json", "out.json", "--", run)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(Path("out.json").read_text())["targets"]) == [str(run)]
    assert f"report: {run / 'report.html'}" in done.stdout
    assert in_process("report", "--", run) == f"wrote {run / 'report.html'}\n"
    assert "small" in in_process("runs", "--", runs)
    assert "held-out" in in_process("runs", "diff", "--", run, run)
    assert "finished after step 1" in in_process("watch", "--once", "--", run)
    assert sorted(path.name for path in tmp_path.iterdir()) == [NASTY, "out.json"]
