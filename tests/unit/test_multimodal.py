"""A multimodal checkpoint is trained as the text model that it has, and stays what it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.core_model_loading import revert_weight_conversion
from vllm import ModelRegistry

from drpo_cli import pretrained
from drpo_cli.dist import World
from drpo_cli.errors import UserError
from drpo_cli.rollout import transformers as engine
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext
from drpo_cli.rollout.engine.text_model import stored_weights, text_arguments, text_name
from drpo_cli.settings import CriticSettings, ModelSettings, ReferenceSettings
from drpo_cli.step import checkpoint
from drpo_cli.step.checkpoint import Checkpoints
from drpo_cli.step.sync import WeightSync
from drpo_cli.tools.memory.passes import count_parameters
from support.damaged import change, without
from support.models import experience, samples, tokenizer, world
from support.multimodal import MULTIMODAL, SIDE, tiny_multimodal
from support.training import open_trainer, valued

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
    assert count_parameters(settings(folders[kind])) == sum(w.numel() for w in own.values())
    tower = next(name for name in load_file(folders[kind] / "model.safetensors") if "vis" in name)
    lacking = change(folders[kind], tmp_path / "lacking", without(tower))
    pretrained.load(AutoModelForCausalLM, str(lacking), "model.path", trust_remote_code=False)


@pytest.mark.parametrize("kind", MULTIMODAL)
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
        frozen = any(part in name for part in (*TOWER, "layer_scalar"))  # a buffer of Gemma 4
        assert torch.equal(tensor, before[name]) == frozen, name
    for file, content in SIDE.items():
        assert json.loads((tmp_path / "exported" / file).read_text()) == content


def settings(folder: Path) -> ModelSettings:
    return ModelSettings(path=str(folder), dtype="float32")


@pytest.mark.parametrize("kind", [kind for kind in MULTIMODAL if kind != "qwen3_vl"])
def test_an_engine_gets_the_names_of_the_text_model(folders: dict[str, Path], kind: str) -> None:
    """Those that a checkpoint of the text class has, which vLLM's class for it expects."""
    text = AutoConfig.from_pretrained(folders[kind]).get_text_config()
    text.tie_word_embeddings = AutoConfig.from_pretrained(folders[kind]).tie_word_embeddings
    with torch.device("meta"):
        alone = AutoModelForCausalLM.from_config(text)
    wanted = (
        revert_weight_conversion(alone, alone.state_dict()).keys() - alone.all_tied_weights_keys
    )
    sent = {text_name(name) for name, _ in stored_weights(settings(folders[kind]))}
    assert sent == wanted
    architecture = type(alone).__name__
    assert architecture in ModelRegistry.get_supported_archs()
    override = text_arguments(settings(folders[kind]), "push", "float32")["hf_overrides"]
    changed = override(AutoConfig.from_pretrained(folders[kind]))
    assert changed.architectures == [architecture] and changed.model_type == text.model_type
    assert changed.head_dtype == "float32"
    found = text_arguments(settings(folders[kind]), None, "float32")
    assert found == {"language_model_only": True}


def test_an_export_needs_the_other_parts(
    folders: dict[str, Path], tmp_path: Path, here: World
) -> None:
    model = tmp_path / "model"
    shutil.copytree(folders["gemma3"], model)
    store = Checkpoints(tmp_path / "checkpoints", 3, here)
    saved = store.save(1, open_trainer(model, here), tokenizer(), {"dtype": "float32"})
    norm = next(name for name in load_file(model / "model.safetensors") if "input_layern" in name)
    change(model, tmp_path / "other", without(norm))
    shutil.rmtree(model)
    with pytest.raises(UserError, match=rf"parts .* are in {model}, .*; put back the model folder"):
        checkpoint.export(saved, tmp_path / "exported")
    (tmp_path / "other").rename(model)
    with pytest.raises(UserError, match=rf"lacks {norm}, which this model was trained from"):
        checkpoint.export(saved, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
