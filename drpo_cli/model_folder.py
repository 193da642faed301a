"""What a model folder is and lacks, read from its names, headers and JSON: no weight, no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ADAPTER_CONFIG = "adapter_config.json"
CHECKPOINT = "complete.json"
"""What a drpo checkpoint has and no model folder does."""
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
LFS = b"version https://git-lfs"

WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "_forward_module.": "Lightning Fabric",
    "base_model.model.": "PEFT",
    "module.": "DistributedDataParallel or DeepSpeed",
    "model.model.": "a module that holds the model",
}
"""What a wrapper around a model puts into the names of its tensors."""


class Finding(NamedTuple):
    """What is wrong with a folder, and what to do about it."""

    what: str
    fix: str


class Header(NamedTuple):
    """A tensor in a file."""

    dtype: str
    shape: tuple[int, ...]


NAME_ONE = "give a Hugging Face model folder or a hub id"


def find_wrong_kind(folder: Path, causal: bool = True) -> Finding | None:
    """What the folder is instead of a model; None where nothing speaks against it.

    With `causal` it must be a causal language model.

    Does not ask for weights: configuration and tokenizer are enough for a plan.
    """
    if not folder.is_dir():
        if not folder.exists():
            return Finding(f"the model folder {folder} does not exist", NAME_ONE)
        return Finding(f"{folder} is a file, not a model folder", NAME_ONE)
    names = {path.name for path in folder.iterdir()}
    if ADAPTER_CONFIG in names:
        return _adapter(folder)
    if run := _find_run(folder):
        return Finding(
            f"{folder} belongs to a run of drpo and is not a model folder",
            f"export it first: drpo export {run} FOLDER; then name FOLDER",
        )
    if "config.json" not in names:
        what = f"the model folder {folder} has no config.json{_hint(folder, names)}"
        return Finding(what, NAME_ONE)
    config = _read_object(folder / "config.json")
    if isinstance(config, Finding):
        return config
    if causal and config.get("is_encoder_decoder"):
        return Finding(
            f"{folder} is a sequence-to-sequence model ({config.get('model_type')}): it has an "
            "encoder",
            "name a causal (decoder-only) language model",
        )
    return None


def find_broken_weights(folder: Path) -> Finding | None:
    """What is wrong with the weight files, by their names and headers.

    They are the files that transformers reads: safetensors before `.bin`, one before many.
    """
    names = {path.name for path in folder.iterdir()}
    if {SINGLE, INDEX} <= names:
        return Finding(
            f"{folder} has both {SINGLE} and {INDEX}, which may be two models",
            "remove the one that is not meant, with its shards",
        )
    if SINGLE in names:
        return _check_shards(folder, {SINGLE: None})
    for index in (INDEX, BIN_INDEX):
        if index in names and (index == INDEX or BIN not in names):
            shards = _read_index(folder / index)
            return shards if isinstance(shards, Finding) else _check_shards(folder, shards)
    if BIN in names:
        return _check_shards(folder, {BIN: None})
    return Finding(
        f"{folder} has no weights: neither {SINGLE}, nor {INDEX}, nor {BIN}{_hint(folder, names)}",
        "download or save the model again, with its weights",
    )


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights of a folder that is not broken, which transformers reads too."""
    for single, index in ((SINGLE, INDEX), (BIN, BIN_INDEX)):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            shards = _read_index(folder / index)
            assert not isinstance(shards, Finding)
            return [folder / name for name in sorted(shards)]
    return []


def read_headers(folder: Path) -> dict[str, Header]:
    """What the safetensors files of a folder hold, if its weights are not broken."""
    paths = [path for path in weight_files(folder) if path.suffix == ".safetensors"]
    return {n: header for path in paths for n, header in _read(path).items()}


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in safetensors files; none where the weights are broken or far."""
    if not folder.is_dir() or find_broken_weights(folder):
        return {}
    return {name: header.shape for name, header in read_headers(folder).items()}


def find_wrapper(names: Iterable[str], own: Iterable[str]) -> Finding | None:
    """The wrapper whose mark is in names of tensors, but in none of the model's `own`."""
    names, own = list(names), list(own)
    for mark, who in WRAPPERS.items():
        if any(_has(mark, name) for name in names) and not any(_has(mark, name) for name in own):
            outer = "the first `model.`" if mark == "model.model." else f"`{mark}`"
            fix = f"save the model inside the wrapper, or rename its tensors without {outer}"
            if mark == "base_model.model.":
                fix = "merge the adapter (merge_and_unload), then save the model"
            return Finding(f"the names of its tensors have `{mark}`, which {who} adds", fix)
    return None


def _has(mark: str, name: str) -> bool:
    return name.startswith(mark) or (mark.startswith("_") and f".{mark}" in name)


def _adapter(folder: Path) -> Finding:
    config = _read_object(folder / ADAPTER_CONFIG)
    base = None if isinstance(config, Finding) else config.get("base_model_name_or_path")
    return Finding(
        f"{folder} is an adapter (LoRA or its kin), not a model; its base model is "
        f"{base or 'not named'}",
        f"merge them first: drpo export --merged {folder} FOLDER; then name FOLDER",
    )


def _find_run(folder: Path) -> Path | None:
    """The run or checkpoint to export, if the folder is one or the description inside one."""
    if (folder / CHECKPOINT).is_file() and (folder / "hf").is_dir():
        return folder
    if folder.name == "hf" and (folder.parent / CHECKPOINT).is_file():
        return folder.parent
    is_run = (folder / "spec.toml").is_file() and (folder / "checkpoints").is_dir()
    return folder if is_run else None


def _hint(folder: Path, names: set[str]) -> str:
    """What a folder without a model has instead, as ` (…)`."""
    inside = [path.name for path in folder.iterdir() if (path / "config.json").is_file()]
    found = {
        "it is empty": not names,
        "it is a diffusion pipeline": "model_index.json" in names,
        "it has GGUF files, which only inference engines read": _ending(names, ".gguf"),
        "its shards have no index": _ending(names, ".safetensors") and "config.json" in names,
        f"a folder inside has one: {', '.join(sorted(inside)[:3])}": bool(inside),
        "its weights are in the format of their maker; look for a converted copy": bool(
            names & {"params.json", "consolidated.00.pth", "consolidated.safetensors"}
        ),
        "its weights are of another framework": bool(
            names & {"tf_model.h5", "flax_model.msgpack", "model.onnx"}
        ),
        "it has only a tokenizer": bool(names & set(TOKENIZER))
        and not _ending(names, ".safetensors", ".bin"),
    }
    said = next((text for text, holds in found.items() if holds), None)
    return f" ({said})" if said else ""


def _ending(names: Iterable[str], *ends: str) -> bool:
    return any(name.endswith(ends) for name in names)


def _read_object(path: Path) -> dict[str, Any] | Finding:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return Finding(f"{path} is not the {path.name} of a model: {error}", "correct it")
    if not isinstance(content, dict):
        return Finding(f"{path} is not the {path.name} of a model: it has no table", "correct it")
    return content


def _read_index(path: Path) -> dict[str, set[str]] | Finding:
    """The names of tensors that an index expects in each file."""
    content = _read_object(path)
    if isinstance(content, Finding):
        return content
    listed = content.get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(x, str) for x in listed.values()):
        return Finding(f"{path} has no weight_map of names and files", "download it again")
    shards: dict[str, set[str]] = {}
    for tensor, file in listed.items():
        shards.setdefault(file, set()).add(tensor)
    return shards


def _check_shards(folder: Path, shards: dict[str, Any]) -> Finding | None:
    """`shards` has the expected names of tensors in each file, or None for any."""
    again = "download or save the model again"
    if missing := [name for name in sorted(shards) if not (folder / name).is_file()]:
        return Finding(f"{folder} lacks {listed(missing)}, which its index names", again)
    seen: Counter[str] = Counter()
    for name, expected in sorted(shards.items()):
        path = folder / name
        with path.open("rb") as file:
            if file.read(len(LFS)) == LFS:
                return Finding(f"{path} is a pointer of Git LFS, not the file", "run git lfs pull")
        if path.suffix != ".safetensors":
            continue
        try:
            there = _read(path).keys()
        except _UnreadableError as error:
            return Finding(f"{path} is damaged or cut short: {error}", again)
        if absent := sorted((expected or set()) - there):
            return Finding(f"{path} has no {listed(absent)}, unlike its index says", again)
        seen.update(there)
    if twice := sorted(name for name, count in seen.items() if count > 1):
        return Finding(f"{folder}: {listed(twice)} is in two files", again)
    return None


class _UnreadableError(Exception):
    pass


def _read(path: Path) -> dict[str, Header]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:  # reads the header, compares the size
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {n: Header(one.get_dtype(), tuple(one.get_shape())) for n, one in slices.items()}
    except (SafetensorError, OSError) as error:
        raise _UnreadableError(str(error)) from error


def listed(names: list[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
