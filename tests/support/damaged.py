"""Model folders with one fault each, made from a sound one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]

MATRIX = "model.layers.0.mlp.up_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def change(source: Path, folder: Path, new: Callable[[Tensors], Tensors], **config: Any) -> Path:
    """Copies a model with other tensors and other keys of config.json."""
    shutil.copytree(source, folder)
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(new(tensors), file, metadata={"format": "pt"})
    set_config(folder, **config)
    return folder


def set_config(folder: Path, **config: Any) -> None:
    """Changes keys of config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    """Every name with a prefix."""
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def without(*names: str) -> Callable[[Tensors], Tensors]:
    """Some tensors less."""
    return lambda tensors: {n: tensor for n, tensor in tensors.items() if n not in names}


def with_more(**more: Tensor) -> Callable[[Tensors], Tensors]:
    """Some tensors more, or others in their place; `__` in a name is a dot."""
    return lambda tensors: {**tensors, **{n.replace("__", "."): t for n, t in more.items()}}


def with_value(name: str, value: float) -> Callable[[Tensors], Tensors]:
    """One value of one tensor replaced."""

    def new(tensors: Tensors) -> Tensors:
        tensors[name].view(-1)[-1] = value
        return tensors

    return new


STRANGE: Mapping[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "compiled": (prefixed("_orig_mod."), r"`_orig_mod\.`, which torch\.compile adds; .* rename"),
    "parallel": (prefixed("module."), r"`module\.`, which Distributed"),
    "adapted": (prefixed("base_model.model."), r"`base_model\.model\.`, which PEFT .* merge"),
    "held": (prefixed("model."), r"`model\.model\.`, which a module .* the first `model\.`"),
    "sharded": (
        lambda tensors: {
            name.replace("self_attn", "_fsdp_wrapped_module.self_attn"): tensor
            for name, tensor in tensors.items()
        },
        r"`_fsdp_wrapped_module\.`, which FSDP",
    ),
    "lacking": (without(MATRIX), rf"lacks 1 of the model's 21 weights.*: {MATRIX}; download"),
    "without head": (without(HEAD), rf"lacks 1 of .*: {HEAD}; set tie_word_embeddings = true"),
    "with more": (with_more(v_head__weight=torch.ones(1, 128)), r"has 1 weights that .* v_head"),
    "other shape": (
        with_more(**{MATRIX.replace(".", "__"): torch.ones(3, 128)}),
        rf"{MATRIX} is \[3, 128\] in the file, \[256, 128\] by config\.json",
    ),
}
"""Tensors that are not those of an untied llama, and what the message about them says."""


def shard(folder: Path) -> tuple[Path, list[Path]]:
    """Cuts model.safetensors into two files with an index; returns index and files."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    names = sorted(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    paths = [folder / f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    where: dict[str, str] = {}
    for path, half in zip(paths, halves, strict=True):
        save_file({name: tensors[name] for name in half}, path, metadata={"format": "pt"})
        where |= dict.fromkeys(half, path.name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    file.unlink()
    return index, paths


def as_bin(folder: Path, count: int) -> None:
    """Stores the weights in `.bin` files, of which several have an index."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    file.unlink()
    if count == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    names = sorted(tensors)
    where: dict[str, str] = {}
    for part in range(count):
        path = folder / f"pytorch_model-{part + 1:05}-of-{count:05}.bin"
        torch.save({name: tensors[name] for name in names[part::count]}, path)
        where |= dict.fromkeys(names[part::count], path.name)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
