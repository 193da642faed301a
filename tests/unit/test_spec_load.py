"""Loading and dumping a good spec."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drpo_cli.settings import RewardSettings
from drpo_cli.spec import Spec, dump, load
from support.specs import BUILT_IN, GOOD, plugin_folder, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return plugin_folder(tmp_path)


def test_defaults_and_paths(folder: Path) -> None:
    spec = load(write(folder))
    assert spec.folder == folder
    assert spec.run.folder == folder / "runs"
    assert spec.rollout.type == "vllm"
    assert spec.advantage.type == "group_mean"
    assert spec.objective.config.model_dump(exclude_none=True) == {"delta": 0.2}
    assert spec.data[0].type == f"{folder}/sources.py:rows"
    assert spec.data[0].config.model_dump()["path"] == folder / "rows.jsonl"
    assert spec.data[0].plugin.entry is not None
    reward = spec.reward[0].config.model_dump()
    assert reward == RewardSettings(name="good").model_dump()
    assert spec.eval_data == ()
    assert spec.model.path == "some-org/some-model"
    assert spec.warnings == ()


def test_a_relative_spec_path_gives_absolute_paths(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder)
    monkeypatch.chdir(folder)
    spec = load(Path("run.toml"))
    assert spec.folder == folder and spec.run.folder == folder / "runs"
    assert spec == load(folder / "run.toml")


@pytest.mark.parametrize("path", ["./model", "../model", "/model", "~/model"])
def test_a_model_path_that_can_be_no_hub_id_is_made_absolute(folder: Path, path: str) -> None:
    found = load(write(folder), [f"model.path={path}"]).model.path
    assert found == str((folder / Path(path).expanduser()).resolve())


def test_a_path_is_a_model_folder_if_it_exists_or_is_prepared(folder: Path) -> None:
    path = write(folder)
    assert load(path, ["model.path=model"]).model.path == "model"
    prepared = load(path, ["model.path=model", "model.prepare=make.py"])
    assert prepared.model.path == f"{folder}/model"
    assert prepared.model.prepare == folder / "make.py"
    (folder / "model").mkdir()
    assert load(path, ["model.path=model"]).model.path == f"{folder}/model"


def full_spec(folder: Path) -> Spec:
    text = GOOD + (
        '[[reward]]\ntype = "./rewards.py:better"\nweight = 0.5\n'
        '[[eval.data]]\ntype = "./sources.py:rows"\npath = "/held/out.jsonl"\nlimit = "all"\n'
        "[eval]\nevery = 0\ntemperature = 0.7\n[train]\nbetas = [0.9, 0.95]\nlearning_rate = 1e-5\n"
    )
    return load(write(folder, text), ["objective.delta=12.5", 'rollout.stop=["\\n", "\'\\""]'])


def test_a_dumped_spec_loads_to_an_equal_one(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = full_spec(folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "spec.toml"
    elsewhere.write_text(dump(spec), encoding="utf-8")
    again = load(elsewhere)
    assert again == spec
    assert again != load(elsewhere, ["run.seed=1"])
    assert dump(again) == dump(spec)
    assert len(spec.warnings) == len(again.warnings) == 1


def test_built_in_plugins_survive_a_dump(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("{}")
    spec = load(write(folder, BUILT_IN))
    assert load(write(folder, dump(spec))) == spec


def test_the_spec_imports_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys, drpo_cli.plan; from pathlib import Path; from drpo_cli.spec import load\n"
        f"load(Path({str(write(folder))!r}))\n"
        "heavy = {'torch', 'transformers', 'vllm', 'datasets', 'scipy', 'numpy'}\n"
        "print(' '.join(heavy & set(sys.modules)), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
