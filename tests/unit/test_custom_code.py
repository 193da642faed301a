"""Models with modelling code of their own: trained, saved, exported, and run only where allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from drpo_cli import pretrained
from drpo_cli.errors import UserError
from drpo_cli.runs.checkpoints import write_marker
from drpo_cli.settings import ModelSettings
from drpo_cli.step import checkpoint
from drpo_cli.step.checkpoint import Checkpoints
from drpo_cli.tools.memory.passes import count_parameters
from support.custom_code import AUTO_MAP, FILES, custom_model
from support.models import experience, samples, tiny_model, tokenizer, world
from support.training import furthest, open_policy, open_trainer, weights

SCALE = "model.norm.scale"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return custom_model(tmp_path_factory.mktemp("custom") / "model")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_code_goes_with_the_weights(model: Path, tmp_path: Path, dtype: str) -> None:
    target, mark = tmp_path / "out", tmp_path / "mark"
    with world() as here:
        trainer = open_trainer(model, here, trust=True)
        before = weights(trainer.policy)[SCALE]
        trainer.step(experience(samples([(3, 9), (6, 2)])))
        trained = weights(trainer.policy)
        store = Checkpoints(tmp_path / "checkpoints", 3, here)
        folder = store.save(1, trainer, tokenizer(), {"dtype": dtype})
    assert not torch.equal(trained[SCALE], before)
    code = folder / "hf" / "modeling_scaled.py"
    code.write_text(code.read_text() + f"\nopen({str(mark)!r}, 'w').close()\n")
    write_marker(folder, {"step": 1, "dtype": dtype}, {})  # or its checksum would be wrong
    checkpoint.export(folder, target)
    assert not mark.exists()  # it ran nothing of the checkpoint's
    assert FILES.keys() <= {path.name for path in target.iterdir()}
    assert json.loads((target / "config.json").read_text())["auto_map"] == AUTO_MAP
    lm = AutoModelForCausalLM.from_pretrained(target, trust_remote_code=True)
    expected = {name: weight.to(getattr(torch, dtype)) for name, weight in trained.items()}
    assert furthest(dict(lm.named_parameters()), expected) == 0
    settings = ModelSettings(path=str(target), trust_remote_code=True)
    pretrained.check(settings, "model.path")


def test_the_memory_plan_counts_its_weights(model: Path) -> None:
    lm = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=True)
    settings = ModelSettings(path=str(model), trust_remote_code=True)
    assert count_parameters(settings) == sum(weight.numel() for weight in lm.parameters())


def test_a_class_of_transformers_needs_no_code(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    listed = {"AutoModelForCausalLM": "modeling_other.Other"}  # a file that is not there
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": listed}))
    with world() as here:
        store = Checkpoints(tmp_path / "checkpoints", 3, here)
        saved = store.save(1, open_trainer(folder, here), tokenizer(), {"dtype": "float32"})
    checkpoint.export(saved, tmp_path / "out")
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)


def test_code_that_is_not_allowed(model: Path) -> None:
    settings = ModelSettings(path=str(model))
    said = r"^model\.path: .* brings Python code of its own.* trust_remote_code = true"
    with world() as here, pytest.raises(UserError, match=said):
        open_policy(model, here)
    with pytest.raises(UserError, match=said):
        pretrained.check(settings, "model.path")
