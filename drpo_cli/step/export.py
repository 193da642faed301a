"""Writes the policy of a checkpoint as a Hugging Face folder. Runs no code that comes with it.

No model is built: the weights are deferred tensors over the checkpoint, and one file of them is in
memory at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drpo_cli.deferred import Deferred, whole
from drpo_cli.errors import writing
from drpo_cli.model_folder import INDEX
from drpo_cli.pretrained import has_code
from drpo_cli.step import saved_state

WEIGHT_PREFIX = "model.lm."  # of a weight's name in the distributed checkpoint
FILE_BYTES = 5 * 10**9
"""The most bytes of weights in a file, unless one weight has more."""


def write_model(checkpoint: Path, folder: Path, dtype: str) -> None:
    """Writes weights, configuration, tokenizer and, if the model has its own, code.

    The weights of a model with code are written under the names that they were trained with;
    others under those that transformers gives them in files.
    """
    hf = checkpoint / "hf"
    weights = _read_weights(checkpoint, getattr(torch, dtype))
    with saved_state.reading(hf):
        if has_code(hf):
            config = json.loads((hf / "config.json").read_text(encoding="utf-8"))
            text = json.dumps({**config, "dtype": dtype}, indent=2, ensure_ascii=False) + "\n"
        else:
            text, weights = _describe(hf, weights, dtype)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write_files(weights, folder)
    with writing(folder / "config.json"):
        (folder / "config.json").write_text(text, encoding="utf-8")
    for file in hf.iterdir():
        if file.is_file() and not (folder / file.name).exists():
            with writing(folder / file.name):
                shutil.copy(file, folder / file.name)


def _read_weights(checkpoint: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights by their names in the model, in this dtype where they are floating-point."""
    saved = saved_state.Tensors(checkpoint / "state", WEIGHT_PREFIX)
    weights = {name: _defer(saved, name) for name in saved.entries}
    return {n: one.to(dtype) if one.is_floating_point() else one for n, one in weights.items()}


def _defer(saved: saved_state.Tensors, name: str) -> Tensor:
    entry = saved.entries[name]
    like = torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")

    def rows(first: int, last: int) -> Tensor:
        return saved.read(name)[first:last] if like.ndim else saved.read(name)

    return Deferred(like, rows)


def _describe(hf: Path, weights: Mapping[str, Tensor], dtype: str) -> tuple[str, dict[str, Tensor]]:
    """The configuration of a model of transformers, and its weights by their names in files."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(hf))
    unwanted = {*lm.all_tied_weights_keys, *(lm._keys_to_ignore_on_save or ())}
    own = {name: weights[name] for name in lm.state_dict() if name not in unwanted}
    lm.config.dtype, lm.config.architectures = dtype, [type(lm).__name__]
    return lm.config.to_json_string(use_diff=True), revert_weight_conversion(lm, own)


def _write_files(weights: Mapping[str, Tensor], folder: Path) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    sizes = {n: torch.empty(w.shape, dtype=w.dtype, device="meta") for n, w in weights.items()}
    split = split_torch_state_dict_into_shards(sizes, max_shard_size=FILE_BYTES)
    for file, names in split.filename_to_tensors.items():
        tensors = {name: whole(weights[name]).contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index: dict[str, Any] = {
            "metadata": {
                "total_parameters": sum(w.numel() for w in sizes.values()),
                **split.metadata,
            },
            "weight_map": split.tensor_to_filename,
        }
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / INDEX).write_text(text + "\n", encoding="utf-8")
