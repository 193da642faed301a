"""Writes the policy of a checkpoint as a Hugging Face folder. Runs no code that comes with it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from drpo_cli.errors import writing
from drpo_cli.pretrained import has_code
from drpo_cli.rollout.engine.ends import GENERATION
from drpo_cli.step import saved_state

WEIGHT_PREFIX = "model.lm."  # of a weight's name in the distributed checkpoint


def write_model(checkpoint: Path, folder: Path, dtype: str) -> None:
    """Writes weights, configuration, tokenizer and, if the model has its own, code.

    The weights of a model with code are written under the names that they were trained with;
    others under those that transformers gives them in files.
    """
    with saved_state.reading(checkpoint / "hf"):
        write = _write_tensors if has_code(checkpoint / "hf") else _write_known
    write(checkpoint, folder, dtype)
    for file in (checkpoint / "hf").iterdir():
        if file.is_file() and not (folder / file.name).exists():
            with writing(folder / file.name):
                shutil.copy(file, folder / file.name)


def _write_known(checkpoint: Path, folder: Path, dtype: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with saved_state.reading(checkpoint / "hf"):
        config = AutoConfig.from_pretrained(checkpoint / "hf")
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _load_weights(checkpoint, lm.state_dict())
    lm.generation_config = GenerationConfig()
    with writing(folder):
        lm.to(getattr(torch, dtype)).save_pretrained(folder)
    (folder / GENERATION).unlink()  # the checkpoint's own, if any, is copied as it is


def _write_tensors(checkpoint: Path, folder: Path, dtype: str) -> None:
    from huggingface_hub import save_torch_state_dict

    saved = saved_state.saved_tensors(checkpoint / "state", WEIGHT_PREFIX)
    weights = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in saved.items()
    }
    _load_weights(checkpoint, weights)
    for name, weight in weights.items():
        if weight.is_floating_point():
            weights[name] = weight.to(getattr(torch, dtype))
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder):
        save_torch_state_dict(weights, folder)
    config = json.loads((checkpoint / "hf" / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**config, "dtype": dtype}, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def _load_weights(checkpoint: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Fills the policy's weights in place."""
    state = {"model": {f"lm.{name}": weight for name, weight in weights.items()}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is")  # one process, on purpose
        saved_state.load(state, checkpoint / "state", alone=True)
