"""The table of shapes of common models: as large as the hub says, and used without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli

from drpo_cli.errors import UserError
from drpo_cli.settings import ModelSettings
from drpo_cli.tools.memory import inputs
from drpo_cli.tools.memory.passes import count_parameters

ROWS: list[dict[str, Any]] = tomli.loads(inputs.SHAPES.read_text())["shape"]


@pytest.fixture(autouse=True)
def without_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["models"][0])
def test_a_model_has_as_many_weights_as_the_hub_says(row: dict[str, Any]) -> None:
    count = count_parameters(ModelSettings(path=row["models"][0]))
    digits = len(str(row["billions"]).partition(".")[2])
    assert count / 1e9 == pytest.approx(row["billions"], abs=0.6 * 10**-digits)


def test_every_model_is_there_once() -> None:
    names = [name for row in ROWS for name in row["models"]]
    assert len(set(names)) == len(names) == len(inputs.known_shapes())


def test_others_are_looked_for_on_the_hub() -> None:
    with pytest.raises(
        UserError, match=r"reference.path: some-org/some-model has no configuration"
    ):
        inputs.load_config(ModelSettings(path="some-org/some-model"), "reference.path")


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "Qwen" / "Qwen3-8B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen3", "hidden_size": 64}')
    assert inputs.load_config(ModelSettings(path="Qwen/Qwen3-8B"), "model.path").hidden_size == 64
