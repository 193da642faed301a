"""What a run says that continues with another spec or other packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.launch.continued import say_changes
from drpo_cli.runs.checkpoints import write_marker
from drpo_cli.runs.folder import RunFolder
from drpo_cli.spec import dump, load
from support.command import records
from support.specs import SMALLEST, write

PACKAGES = {"torch": "2.13.0", "drpo": "0.1.0"}


def said(
    tmp_path: Path, *changes: str, saved: bool = True, packages: dict[str, str] = PACKAGES
) -> list[str]:
    path = write(tmp_path, SMALLEST + "[sft]\nupdates = 5\n")
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    if saved:
        (folder.checkpoints / "step-000002").mkdir()
        write_marker(folder.checkpoints / "step-000002", {"step": 2}, {})
    folder.spec.write_text(dump(load(path)))
    folder.versions.write_text(json.dumps({"packages": PACKAGES}))
    now: dict[str, Any] = {"packages": packages}
    say_changes(folder, load(path, changes), now)
    return [str(event["text"]) for event in records(folder.events)]


def test_nothing_is_said_of_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(tmp_path) == []
    assert capsys.readouterr().err == ""


def test_changes_are_named_and_those_without_an_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("train.learning_rate=3e-4", "sft.updates=9", "model.path=other-org/other")
    first, second = said(tmp_path, *changes)
    assert first == "continues with other settings: train.learning_rate = 0.0003 (was 1e-06)"
    assert second == (
        "has no effect, since the checkpoint has the weights: model.path = other-org/other "
        "(was some-org/some-model), sft.updates = 9 (was 5)"
    )
    assert capsys.readouterr().err == f"{first}\n{second}\n"


def test_without_a_checkpoint_everything_has_an_effect(tmp_path: Path) -> None:
    (only,) = said(tmp_path, "sft.updates=9", saved=False)
    assert only == "continues with other settings: sft.updates = 9 (was 5)"


def test_other_packages_and_long_lists(tmp_path: Path) -> None:
    changes = [f"train.{key}" for key in ("epsilon=1e-7", "weight_decay=0.5", "schedule=linear")]
    changes += [f"eval.{key}" for key in ("every=3", "problems=7", "top_p=0.9", "top_k=4")]
    changes += ["eval.threshold=0.5", "checkpoint.every=2", "checkpoint.keep=9"]
    newer = {"torch": "2.14.0", "drpo": "0.1.0", "vllm": "0.33.0"}
    settings, packages = said(tmp_path, *changes, packages=newer)
    assert settings.endswith(", and 2 more") and settings.count("(was ") == 8
    assert packages.endswith("last bits: torch = 2.14.0 (was 2.13.0), vllm = 0.33.0 (was not set)")
