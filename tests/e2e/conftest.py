"""The quickstart as `drpo init` writes it, its model made once for all tests."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from drpo_cli.launch.launcher import prepare_model
from drpo_cli.spec import load
from support.command import drpo
from support.models import tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's warm-started model, made by its own script."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    assert drpo("init", folder, "--template", "quickstart").returncode == 0
    prepare_model(load(folder / "run.toml").model)
    return folder / "model"


@pytest.fixture
def quickstart(tmp_path: Path, model: Path) -> Path:
    """A fresh quickstart folder with the model in it; the path of its spec."""
    folder = tmp_path / "quickstart"
    assert drpo("init", folder).returncode == 0
    shutil.copytree(model, folder / "model")
    return folder / "run.toml"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A run of two steps on a random model; the path of its spec."""
    folder = tmp_path / "small"
    folder.mkdir()
    tiny_model(folder / "model")
    (folder / "run.toml").write_text(SMALL)
    return folder / "run.toml"


@pytest.fixture
def environment() -> Iterator[None]:
    """Restores the environment that an engine changes."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


SMALL = """
[run]
name = "small"
steps = 2
[model]
path = "model"
dtype = "float32"
[[data]]
type = "arithmetic"
digits = 1
[rollout]
engine = "transformers"
prompts_per_step = 4
samples_per_prompt = 4
max_new_tokens = 4
context_length = 32
[[reward]]
type = "length"
limit = 8
soft_limit = 1
[train]
updates_per_rollout = 2
learning_rate = 1e-3
[eval]
problems = 4
samples_per_prompt = 2
"""
