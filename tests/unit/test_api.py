"""The Python API: specs from files and dicts, and mistakes as exceptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import drpo_cli
from drpo_cli import SpecError, UserError, load, open_run, train
from support.specs import SMALLEST, write

TABLES: dict[str, Any] = {
    "run": {"name": "test", "steps": 10},
    "model": {"path": "some-org/some-model"},
    "data": [{"type": "arithmetic"}],
    "reward": [{"type": "exact_match"}],
}


def test_a_dict_is_the_spec_that_the_same_file_is(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    assert load(TABLES, [f"run.folder={tmp_path / 'runs'}"]) == load(str(path))
    assert load(path, ["run.steps=3"]).run.steps == 3


def test_relative_paths_of_a_dict_count_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(TABLES).run.folder == tmp_path / "runs"


def test_everything_wrong_with_a_dict_is_in_one_error() -> None:
    wrong = TABLES | {"run": {"name": "test", "stepz": 10}, "objective": {"type": "drpp"}}
    with pytest.raises(SpecError) as caught:
        load(wrong)
    messages = "\n".join(map(str, caught.value.problems))
    assert len(caught.value.problems) == 2
    assert "run.stepz" in messages and "drpp" in messages


def test_a_run_that_cannot_start_raises(tmp_path: Path) -> None:
    spec = load(TABLES | {"model": {"path": str(tmp_path / "missing")}})
    with pytest.raises(UserError, match="does not exist"):
        train(spec)
    with pytest.raises(UserError):
        open_run(tmp_path)


def test_every_name_of_the_api_is_there_and_no_other() -> None:
    assert all(getattr(drpo_cli, name) is not None for name in drpo_cli.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = drpo_cli.fit
