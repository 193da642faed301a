"""The docstrings under options are found where something shows them, and not read before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from drpo_cli import plugins
from drpo_cli.settings import RolloutSettings, Settings
from drpo_cli.settings.meanings import meanings


class Base(Settings):
    """Options."""

    shared: int = 1
    """One for both."""
    other: int = 1
    """Of the base."""


class Own(Base):
    """More options."""

    other: int = 2
    """Of its own,
    on two lines."""
    plain: int = 3


def test_docstrings_of_a_class_and_of_its_bases() -> None:
    assert meanings(Own) == {"shared": "One for both.", "other": "Of its own,\non two lines."}
    assert meanings(Base)["other"] == "Of the base."


def test_two_classes_of_one_name_are_told_apart() -> None:
    class Own(Settings):
        """Another."""

        alone: int = 1
        """Only here."""

    assert meanings(Own) == {"alone": "Only here."}


def test_options_of_a_users_plugin(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from drpo_cli.settings import RewardSettings\n\n"
        "class Config(RewardSettings):\n    '''Mine.'''\n\n"
        "    bonus: float = 0.5\n    '''What it adds.'''\n\n"
        "def reward(completion: str, config: Config) -> float:\n    return config.bonus\n"
    )
    config = plugins.load("rewards", "./mine.py", tmp_path).Config
    assert meanings(config)["bonus"] == "What it adds."
    assert "timeout_s" in meanings(config)  # of its base class


def test_a_class_without_a_source_has_none() -> None:
    made = type("Made", (Settings,), {"__annotations__": {"a": int}, "a": 1})
    assert meanings(made) == {}


def test_no_source_is_read_before_something_asks() -> None:
    code = (
        "import drpo_cli.spec, drpo_cli.settings.meanings as m;"
        "assert m._classes.cache_info().currsize == 0;"
        "fields = drpo_cli.settings.TrainSettings.model_fields.values();"
        "assert fields and all(field.description is None for field in fields)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert meanings(RolloutSettings).keys() == RolloutSettings.model_fields.keys()
