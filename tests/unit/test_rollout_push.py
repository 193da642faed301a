"""An engine under a trainer reads no weights: the first push makes it what the folder says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext
from drpo_cli.settings import ModelSettings
from drpo_cli.step.sync import WeightSync
from support.models import tiny_model, world
from support.training import open_trainer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma2", "gemma3", "qwen3_moe", "glm4_moe"])
def test_the_first_push_brings_all_that_a_checkpoint_has(
    kind: str, dtype: Any, tmp_path: Path
) -> None:
    folder = tiny_model(tmp_path / kind, kind)
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    with world() as here:
        trainer = open_trainer(folder, here)
        for file in folder.glob("*.safetensors"):
            file.unlink()
        context = EngineContext(
            ModelSettings(path=str(folder), dtype=dtype), 64, 1, awaits_weights=True
        )
        engine = transformers.Engine(transformers.Config(), context)
        WeightSync(trainer, engine, Precision("float32", dtype)).push(0)
    for find in ("named_parameters", "named_buffers"):
        wanted, held = (dict(getattr(lm, find)()) for lm in (expected, engine.model))
        assert wanted.keys() == held.keys()
        for name, tensor in wanted.items():
            assert torch.equal(held[name], tensor) and held[name].dtype == tensor.dtype, name
    tied = expected.get_output_embeddings().weight is expected.get_input_embeddings().weight
    lm = engine.model
    assert (lm.get_output_embeddings().weight is lm.get_input_embeddings().weight) == tied
    assert not lm.training


def test_an_engine_without_a_trainer_reads_the_folder(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    context = EngineContext(ModelSettings(path=str(folder), dtype="float32"), 64, 1)
    held = transformers.Engine(transformers.Config(), context).model.state_dict()
    wanted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in wanted.items())
