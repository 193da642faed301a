"""An export is what transformers would save, without the model in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from drpo_cli.dist import World
from drpo_cli.step import checkpoint, export
from drpo_cli.step.checkpoint import Checkpoints
from support.allocated import Allocated
from support.models import KINDS, tiny_model, tokenizer, world
from support.training import open_trainer

FILE_BYTES = 200_000
"""Of a file: less than a tiny model has, and more than the largest weight."""


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as joined:
        yield joined


def save(model: Path, here: World, folder: Path, dtype: str) -> Path:
    store = Checkpoints(folder, 3, here)
    return store.save(1, open_trainer(model, here), tokenizer(), {"dtype": dtype})


def contents(folder: Path) -> dict[str, bytes]:
    """The files with weights or their names, and the configuration."""
    files = (*folder.glob("model*.safetensors*"), folder / "config.json")
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_those_of_transformers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, here: World, kind: str
) -> None:
    model = tiny_model(tmp_path / "model", kind)
    weights = AutoModelForCausalLM.from_pretrained(model).state_dict()
    # transformers counts experts, which are views of one tensor, as if each were all of them
    size = export.FILE_BYTES if any(".experts." in name for name in weights) else FILE_BYTES
    monkeypatch.setattr(export, "FILE_BYTES", size)
    saved = save(model, here, tmp_path / "checkpoints", "bfloat16")
    checkpoint.export(saved, tmp_path / "exported")
    lm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).to(torch.bfloat16)
    lm.load_state_dict(weights)
    lm.generation_config = GenerationConfig()
    lm.save_pretrained(tmp_path / "expected", max_shard_size=size)
    found, expected = contents(tmp_path / "exported"), contents(tmp_path / "expected")
    assert ("model.safetensors.index.json" in expected) == (size == FILE_BYTES)
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        if name.endswith(".json"):
            written, other = (json.loads(one) for one in (found[name], content))
            for index in (written, other):  # ours counts buffers that are saved as parameters
                index.get("metadata", {}).pop("total_parameters", None)
            assert written == other
        else:
            assert found[name] == content, name


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_one_file_is_in_memory_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, here: World, kind: str
) -> None:
    monkeypatch.setattr(export, "FILE_BYTES", FILE_BYTES)
    model = tiny_model(tmp_path / "model", kind, num_hidden_layers=8)
    plain = AutoModelForCausalLM.from_pretrained(model)
    largest = max(weight.nbytes for weight in plain.parameters())
    whole = sum(weight.nbytes for weight in plain.parameters())
    saved = save(model, here, tmp_path / "checkpoints", "float32")
    with Allocated() as allocated:
        checkpoint.export(saved, tmp_path / "exported")
    assert allocated.peak < FILE_BYTES + 3 * largest < whole / 2
