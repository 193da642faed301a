"""Any name of a folder or file works, in every key and argument that names one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pyarrow
import pyarrow.parquet
import pytest
import sqlalchemy
from typer.testing import CliRunner

from drpo_cli import plugins
from drpo_cli.cli import app
from drpo_cli.cli.common import as_typed
from drpo_cli.errors import UserError
from drpo_cli.evaluate import compare
from drpo_cli.evaluate.metrics import Evaluation
from drpo_cli.launch.launcher import launch
from drpo_cli.rollout.vllm import _plain_folder
from drpo_cli.spec import dump, load
from drpo_cli.spec.overrides import parse_variant
from drpo_cli.step.checkpoint import export
from drpo_cli.tools import evaluate, init
from drpo_cli.tools.scoring import Job, Scored
from drpo_cli.trackers import TrackedRun
from support.paths import NAMES, NASTY
from support.specs import DATA, HEAD, REWARD

ROWS = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2=", "answer": "4"}]


@pytest.fixture
def nasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with such a name, and the cache of `datasets` in a plain one."""
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / NASTY
    (folder / "rows [x]").mkdir(parents=True)
    for name in ("r [1]*", "rows [x]/train-[0]"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / f"{name}.parquet")
        (folder / f"{name}.csv").write_text("prompt,answer\n1+1=,2\n2+2=,4\n")
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "re wards.x [1].py").write_text("def fn(completion): return 1.0\n")
    return folder


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("jsonl", "r [1]*.jsonl"),
        ("csv", "r [1]*.csv"),
        ("parquet", "r [1]*.parquet"),
        ("parquet", "rows [x]"),
        ("parquet", "rows*/train*.parquet"),
        ("huggingface", "r [1]*.parquet"),
        ("huggingface", "r [1]*.jsonl"),
        ("huggingface", "r [1]*.csv"),
    ],
)
def test_every_source_reads_it(nasty: Path, kind: str, path: str) -> None:
    plugin = plugins.load("data", kind)
    for given in (path, str(nasty / path)):  # as a run's own spec names it
        config = plugin.Config.model_validate({"path": given}, context={"folder": nasty})
        assert [row.prompt for row in plugin.entry(config)] == ["1+1=", "2+2="]


def test_a_data_set_of_several_files_is_read_again_after_a_change(nasty: Path) -> None:
    folder = nasty / "set"
    folder.mkdir()
    plugin = plugins.load("data", "huggingface")

    def prompts() -> list[Any]:
        config = plugin.Config.model_validate({"path": "set"}, context={"folder": nasty})
        return [row.prompt for row in plugin.entry(config)]

    for name in ("a [1]", "b"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"prompt": name, "answer": "x"}))
    assert prompts() == ["a [1]", "b"]
    (folder / "b.jsonl").unlink()
    assert prompts() == ["a [1]"]


def test_a_plugin_file(nasty: Path) -> None:
    type = "./re wards.x [1].py:fn"
    absolute = plugins.absolute(type, nasty)
    assert absolute == f"{nasty}/re wards.x [1].py:fn"
    assert plugins.load("rewards", absolute).entry is plugins.load("rewards", type, nasty).entry
    assert plugins.short_name(absolute) == "fn"
    assert parse_variant(f"{absolute}:cap=3") == (absolute, {"cap": 3})


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_and_its_resolved_copy(tmp_path: Path, name: str) -> None:
    """A tilde stands for a home only where there is that user."""
    folder = tmp_path / name
    (folder / "mo [d]").mkdir(parents=True)
    (folder / "re [1].py").write_text("def fn(completion): return 1.0\n")
    (folder / "~no such user").mkdir()
    (folder / "~no such user" / "r*.jsonl").write_text(json.dumps(ROWS[0]))
    text = HEAD.replace("some-org/some-model", "mo [d]") + '[[data]]\ntype = "jsonl"\n'
    text += 'path = "~no such user/r*.jsonl"\n[[reward]]\ntype = "./re [1].py:fn"\n'
    (folder / "run.toml").write_text(text)
    spec = load(folder / "run.toml")
    assert spec.model.path == str(folder / "mo [d]")
    assert spec.data[0].config.path == folder / "~no such user" / "r*.jsonl"  # type: ignore[attr-defined]
    assert spec.reward[0].type == f"{folder}/re [1].py:fn"
    (tmp_path / "spec.toml").write_text(dump(spec))
    assert load(tmp_path / "spec.toml") == spec


def test_the_database_of_mlflow_is_beside_the_runs(
    nasty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address as SQLAlchemy reads it, which ends a path at a question mark."""
    client = MagicMock()
    monkeypatch.setitem(sys.modules, "mlflow", MagicMock(MlflowClient=client))
    plugin = plugins.load("trackers", "mlflow")
    run = TrackedRun(name="a", folder=nasty / "t", runs=nasty, spec={}, id="1")
    tracker = plugin.entry(plugin.Config(), run)
    address = client.call_args.kwargs["tracking_uri"]
    with sqlalchemy.create_engine(address).begin() as database:
        database.execute(sqlalchemy.text("create table t (x)"))
    assert (nasty / "mlflow.db").stat().st_size > 0
    assert [path.name for path in nasty.parent.iterdir()] == [nasty.name]
    assert tracker.id == "1"


def test_vllm_gets_a_plain_path(nasty: Path) -> None:
    with _plain_folder(str(nasty)) as plain:
        assert not set(plain) & set("[]*?{}")
        assert sorted(os.listdir(plain)) == sorted(os.listdir(nasty))
    assert not Path(plain).exists() and nasty.exists()
    with _plain_folder("some-org/some-model") as same:
        assert same == "some-org/some-model"


def test_an_interpreter_in_a_folder_with_an_equals_sign(tmp_path: Path) -> None:
    python = tmp_path / "lr=1 [b]" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    code = "import os, sys; open(sys.argv[1], 'w').write(os.environ['GIVEN'])"
    launch("run", 1, {"GIVEN": "yes"}, [str(python), "-c", code, str(tmp_path / NASTY)])
    assert (tmp_path / NASTY).read_text() == "yes"


@pytest.mark.parametrize("name", NAMES)
def test_what_to_type_next_is_quoted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "x").write_text("found")
    command = f"cat {as_typed(Path(name) / 'x')}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == b"found"


def test_init_into_such_a_folder_and_into_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init", "--", NASTY])
    assert done.exit_code == 0
    assert f"drpo check {as_typed(Path(NASTY, 'run.toml'))}" in done.output
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    init.init(Path(), "quickstart", init.template_folder())
    assert Path("run.toml").is_file()  # the folder is still the one that the shell is in
    assert sorted(path.name for path in tmp_path.iterdir()) == [NASTY, "here"]


def test_a_folder_where_a_file_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["schema", "--out", "."])
    assert isinstance(done.exception, UserError) and ". is a folder" in str(done.exception)
    with pytest.raises(UserError, match="neither a complete checkpoint"):
        export(tmp_path, Path())


def test_eval_prints_every_character(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A bracket in a path is no style."""
    shown = f"x/{NASTY}"
    result = Evaluation(1, 1.0, (), {})
    (tmp_path / "run.toml").write_text(HEAD + DATA + REWARD)

    job = Job("", "", shown)

    def score(*given: Any) -> dict[str, Evaluation]:
        _, _, _, begin, end = given
        begin([job])
        end(job, Scored(result, 1.0))
        return {shown: result}

    monkeypatch.setattr(evaluate, "score_targets", score)
    monkeypatch.setattr(compare, "render", lambda found: shown)
    monkeypatch.setenv("COLUMNS", "200")
    with redirect_stdout(io.StringIO()) as out:
        evaluate.evaluate([shown], tmp_path / "run.toml", None, evaluate.ONCE)
    assert out.getvalue() == f"scoring {shown} …\n{shown}: 1.0 s\n{shown}\n"


def test_a_folder_that_is_not_unicode_is_named(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "run.toml").write_text(HEAD + DATA + REWARD)
    with pytest.raises(UserError, match="is not valid UTF-8"):
        load(folder / "run.toml")
