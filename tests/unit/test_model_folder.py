"""What a folder is instead of a model is said before anything loads, and without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from drpo_cli.errors import UserError
from drpo_cli.plan import check_plan
from drpo_cli.spec import load
from drpo_cli.tools.evaluate import score_targets
from support.specs import SMALLEST

CONFIG = json.dumps({"model_type": "llama", "max_position_embeddings": 4096})
Files = Mapping[str, object]

KINDS: Mapping[str, tuple[Files, str]] = {
    "an adapter": (
        {"adapter_config.json": {"base_model_name_or_path": "org/base"}, "adapter_model.bin": ""},
        r"is an adapter \(LoRA or its kin\), .* base model is org/base; merge .*export --merged",
    ),
    "an adapter beside a configuration": (
        {"adapter_config.json": {}, "config.json": CONFIG, "model.safetensors": ""},
        r"is an adapter .* not named; merge",
    ),
    "a broken adapter": ({"adapter_config.json": "{"}, r"is an adapter .* not named; merge"),
    "nothing": ({}, r"has no config\.json \(it is empty\); give a"),
    "a tokenizer": (
        {"tokenizer.json": "{}", "tokenizer_config.json": "{}"},
        r"has no config\.json \(it has only a tokenizer\)",
    ),
    "GGUF": ({"model-q4.gguf": "", "README.md": ""}, r"\(it has GGUF files, which only inference"),
    "a diffusion pipeline": (
        {"model_index.json": "{}", "unet/config.json": "{}"},
        r"\(it is a diffusion pipeline\)",
    ),
    "its maker's format": (
        {"params.json": "{}", "consolidated.00.pth": "", "tokenizer.model": ""},
        r"\(its weights are in the format of their maker",
    ),
    "a folder around it": (
        {"inner/config.json": CONFIG},
        r"has no config\.json \(a folder inside has one: inner\)",
    ),
    "a checkpoint": (
        {"complete.json": "{}", "hf/config.json": CONFIG},
        r"belongs to a run of drpo .*; export it first: drpo export .*/model FOLDER",
    ),
    "a run": (
        {"spec.toml": "", "checkpoints/step-000001/complete.json": "{}"},
        r"belongs to a run of drpo .*; export it first: drpo export .*/model FOLDER",
    ),
    "a sequence-to-sequence model": (
        {"config.json": {"model_type": "t5", "is_encoder_decoder": True}},
        r"is a sequence-to-sequence model \(t5\).*; name a causal",
    ),
}


def make(folder: Path, files: Files) -> Path:
    folder.mkdir()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_no_model(tmp_path: Path, kind: str) -> None:
    files, said = KINDS[kind]
    folder = make(tmp_path / "model", files)
    spec = tmp_path / "run.toml"
    spec.write_text(SMALLEST)
    for key in ("model.path", "reference.path", "critic.path"):
        with pytest.raises(UserError, match=rf"{key}: .*{said}"):
            advantage = "gae" if key == "critic.path" else "group_norm"
            check_plan(load(spec, [f"{key}={folder}", f"advantage.type={advantage}"]), 1)
    if "run" not in said and "adapter" not in kind:  # those are exported and scored
        with pytest.raises(UserError, match=said.split("; give")[0]):
            score_targets([str(folder)], spec)


def test_the_description_in_a_checkpoint(tmp_path: Path) -> None:
    make(tmp_path / "model", KINDS["a checkpoint"][0])
    spec = tmp_path / "run.toml"
    spec.write_text(SMALLEST)
    with pytest.raises(UserError, match=r"export it first: drpo export .*/model FOLDER"):
        check_plan(load(spec, ["model.path=./model/hf"]), 1)


def test_a_file_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("")
    spec = tmp_path / "run.toml"
    spec.write_text(SMALLEST)
    with pytest.raises(UserError, match=r"model\.gguf is a file, not a model folder"):
        check_plan(load(spec, ["model.path=model.gguf"]), 1)
