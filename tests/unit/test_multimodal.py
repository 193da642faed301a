"""A multimodal checkpoint is trained as the text model that it has, and stays what it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

from drpo_cli import pretrained
from drpo_cli.dist import World
from drpo_cli.rollout import transformers as engine
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext
from drpo_cli.settings import CriticSettings, ModelSettings, ReferenceSettings
from drpo_cli.step import checkpoint
from drpo_cli.step.checkpoint import Checkpoints
from drpo_cli.step.sync import WeightSync
from support.damaged import change, without
from support.models import experience, samples, tokenizer, world
from support.multimodal import MULTIMODAL, SIDE, tiny_multimodal
from support.training import open_trainer, valued

PACKED = ("gemma3", "mistral3", "qwen3_vl")
TOWER = ("vision_tower", "visual", "multi_modal_projector", "embed_vision", "vision_model")


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as joined:
        yield joined


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: tiny_multimodal(tmp_path_factory.mktemp(kind), kind) for kind in MULTIMODAL}


def logits(lm: Any) -> Tensor:
    ids = torch.arange(3, 27).view(2, 12)
    with torch.no_grad():
        found: Tensor = lm(input_ids=ids).logits
    return found


@pytest.mark.parametrize("kind", MULTIMODAL)
def test_the_text_model_alone(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    whole = AutoModelForMultimodalLM.from_pretrained(folders[kind])
    lm = pretrained.load(
        AutoModelForCausalLM, str(folders[kind]), "model.path", trust_remote_code=False
    )
    assert torch.equal(logits(lm), logits(whole))
    own, all_ = (dict(one.named_parameters()) for one in (lm, whole))
    assert own.keys() < all_.keys()
    assert {
        name for name in all_ if any(part in name for part in TOWER)
    } == all_.keys() - own.keys()
    tower = next(name for name in load_file(folders[kind] / "model.safetensors") if "vis" in name)
    lacking = change(folders[kind], tmp_path / "lacking", without(tower))
    pretrained.load(AutoModelForCausalLM, str(lacking), "model.path", trust_remote_code=False)


@pytest.mark.parametrize("kind", PACKED)
def test_training_and_export(
    folders: dict[str, Path], tmp_path: Path, here: World, kind: str
) -> None:
    trainer = open_trainer(
        folders[kind], here, reference=ReferenceSettings(), critic=CriticSettings()
    )
    sampler = engine.Engine(
        engine.Config(), EngineContext(settings(folders[kind]), 64, 1, awaits_weights=True)
    )
    trainer.step(experience(valued(samples([(4, 6), (3, 5)]))))
    WeightSync(trainer, sampler, Precision("float32", "float32")).push(1)
    store = Checkpoints(tmp_path / "checkpoints", 3, here)
    saved = store.save(1, trainer, tokenizer(), {"dtype": "float32"})
    checkpoint.export(saved, tmp_path / "exported")
    exported = AutoModelForMultimodalLM.from_pretrained(tmp_path / "exported")
    before, after = (
        load_file(folder / "model.safetensors") for folder in (folders[kind], tmp_path / "exported")
    )
    assert before.keys() == after.keys()
    assert torch.allclose(logits(exported), logits(sampler.model), atol=1e-5)
    for name, tensor in after.items():
        in_tower = any(part in name for part in TOWER)
        assert torch.equal(tensor, before[name]) == in_tower, name
    for file, content in SIDE.items():
        assert json.loads((tmp_path / "exported" / file).read_text()) == content


def settings(folder: Path) -> ModelSettings:
    return ModelSettings(path=str(folder), dtype="float32")
