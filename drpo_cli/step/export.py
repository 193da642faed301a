"""Writes the policy of a checkpoint as a Hugging Face folder. Runs no code that comes with it.

No model is built: the weights are deferred tensors over the checkpoint, and one file of them is in
memory at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from drpo_cli import pretrained
from drpo_cli.adapter_folder import PREFIX, WEIGHTS, Adapter, find_base, merge, read_adapter
from drpo_cli.deferred import Deferred, read_files, whole
from drpo_cli.errors import UserError, writing
from drpo_cli.model_folder import ADAPTER_CONFIG, INDEX, find_broken_weights, listed, weight_files
from drpo_cli.pretrained import has_code
from drpo_cli.rollout.engine.ends import GENERATION, read_generation
from drpo_cli.step import saved_state
from drpo_cli.trainer.lora import A, B, fingerprint

WEIGHT_PREFIX = "model.lm."  # of a weight's name in the distributed checkpoint
PROCESSOR = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
)
ADAPTER, BASE = "adapter/adapter_config.json", "adapter/base.json"
"""In a checkpoint of adapters: how they are applied, and what identifies their base."""
FILE_BYTES = 5 * 10**9
"""The most bytes of weights in a file, unless one weight has more."""


def write_model(
    checkpoint: Path, folder: Path, dtype: str, base: str | None = None, merged: bool = False
) -> None:
    """Writes weights, configuration, tokenizer and, if the model has its own, code.

    A multimodal model gets its other parts as they are in `base`, the folder or hub id that it was
    trained from: a checkpoint has the language model alone. A checkpoint of adapters gives a folder
    of the adapter in PEFT's format, or `merged` with its base a model.

    The weights of a model with code are written under the names that they were trained with;
    others under those that transformers gives them in files.
    """
    hf = checkpoint / "hf"
    if not (checkpoint / ADAPTER).is_file():
        _write_model(hf, _read_weights(checkpoint, getattr(torch, dtype)), folder, dtype, base)
    elif merged:
        with saved_state.reading(checkpoint / BASE):
            own = json.loads((checkpoint / BASE).read_text(encoding="utf-8"))
        lm = _load_base(own["path"], dtype)
        if fingerprint(lm) != own["fingerprint"]:
            raise UserError(
                f"{own['path']} has other weights than when this run started on it",
                "put back the model folder that it had then",
            )
        merge(lm, _read_adapter(checkpoint), str(checkpoint))
        _write_model(hf, dict(lm.state_dict()), folder, dtype, base)
    else:
        _write_adapter(checkpoint, folder)


def merge_folder(adapter: Path, folder: Path, dtype: str | None = None) -> None:
    """Writes the model that an adapter folder makes of its base, with the base's tokenizer.

    The weights are in `dtype`, or in that of the base. Raises UserError if they do not fit.
    """
    base = find_base(adapter)
    lm = _load_base(base, dtype or "auto")
    merge(lm, read_adapter(adapter), str(adapter))
    dtype = str(lm.dtype).removeprefix("torch.")
    with TemporaryDirectory(prefix="drpo-base-") as scratch:
        hf = Path(scratch)
        pretrained.save_config(lm, hf)
        if (adapter / "tokenizer_config.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(adapter, trust_remote_code=False)
        else:
            tokenizer = pretrained.read(AutoTokenizer, base, str(adapter), trust_remote_code=False)
        tokenizer.save_pretrained(hf)
        if (generation := read_generation(base)) is not None:
            (hf / GENERATION).write_bytes(generation)
        _write_model(hf, dict(lm.state_dict()), folder, dtype, base)


def _load_base(path: str, dtype: str) -> Any:
    kind: Any = dtype if dtype == "auto" else getattr(torch, dtype)
    return pretrained.load_deferred(
        AutoModelForCausalLM,
        path,
        "the base of the adapter",
        trust_remote_code=False,
        dtype=kind,
        generation_config=GenerationConfig(),
    )


def _read_adapter(checkpoint: Path) -> Adapter:
    """The adapter of a checkpoint, deferred."""
    tensors = _read_weights(checkpoint, torch.float32)
    with saved_state.reading(checkpoint / ADAPTER):
        config = json.loads((checkpoint / ADAPTER).read_text(encoding="utf-8"))
    pairs = {
        name.removesuffix(f".{A}"): (a, tensors[name.replace(A, B)])
        for name, a in tensors.items()
        if name.endswith(A)
    }
    return Adapter(config, pairs)


def _write_adapter(checkpoint: Path, folder: Path) -> None:
    """Writes A and B in float32, what applies them, and the tokenizer."""
    from safetensors.torch import save_file

    adapter, hf = _read_adapter(checkpoint), checkpoint / "hf"
    tensors = {
        f"{PREFIX}{layer}.lora_{part}.weight": whole(one).contiguous()
        for layer, pair in adapter.pairs.items()
        for part, one in zip("AB", pair, strict=True)
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(dict(adapter.config), indent=2) + "\n"
        (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")
        for file in hf.iterdir():
            if file.is_file() and file.name not in ("config.json", GENERATION):
                shutil.copy(file, folder / file.name)


def _write_model(
    hf: Path, weights: Mapping[str, Tensor], folder: Path, dtype: str, base: str | None
) -> None:
    """Writes weights by their names in the model, and what `hf` has beside weights."""
    with saved_state.reading(hf):
        if has_code(hf):
            config = json.loads((hf / "config.json").read_text(encoding="utf-8"))
            text = json.dumps({**config, "dtype": dtype}, indent=2, ensure_ascii=False) + "\n"
        else:
            text, weights = _describe(hf, weights, dtype, base)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write_files(weights, folder)
    with writing(folder / "config.json"):
        (folder / "config.json").write_text(text, encoding="utf-8")
    for file in [*hf.iterdir(), *_processor_files(hf, base)]:
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


def _describe(
    hf: Path, weights: Mapping[str, Tensor], dtype: str, base: str | None
) -> tuple[str, dict[str, Tensor]]:
    """The configuration of a model of transformers, and its weights by their names in files."""
    from transformers import AutoConfig
    from transformers.core_model_loading import revert_weight_conversion

    with torch.device("meta"):
        lm = pretrained.make(AutoConfig.from_pretrained(hf))
    unwanted = {*lm.all_tied_weights_keys, *(lm._keys_to_ignore_on_save or ())}
    own = {name: weights[name] for name in lm.state_dict() if name not in unwanted}
    lm.config.dtype, lm.config.architectures = dtype, [type(lm).__name__]
    text, saved = lm.config.to_json_string(use_diff=True), revert_weight_conversion(lm, own)
    if not pretrained.is_multimodal(lm.config):
        return text, saved
    there = _read_base(base)
    names = own if own.keys() <= there.keys() else saved
    if not names.keys() <= there.keys():
        raise UserError(
            f"{base} lacks {listed(sorted(names.keys() - there.keys()))}, which this model was "
            "trained from",
            "put back the model folder that it had at the start of the run",
        )
    tied = tuple(name.rpartition("model.")[2] for name in unwanted)
    return text, {**{n: one for n, one in there.items() if not n.endswith(tied)}, **names}


def _read_base(base: str | None) -> dict[str, Tensor]:
    """The deferred weights of the model that a multimodal one was trained from, as they are."""
    try:
        folder = pretrained.find_weights(base or "")
    except OSError as error:
        raise UserError(
            f"the model is multimodal, and its parts for other inputs than text are in {base}, "
            f"which cannot be read: {error}",
            "put back the model folder that it had at the start of the run",
        ) from error
    if finding := find_broken_weights(folder):
        raise UserError(finding.what, finding.fix)
    return read_files(weight_files(folder))


def _processor_files(hf: Path, base: str | None) -> Iterator[Path]:
    """What prepares the other inputs of a multimodal model."""
    from transformers.utils.hub import cached_file

    with saved_state.reading(hf):
        config = json.loads((hf / "config.json").read_text(encoding="utf-8"))
    if base and "text_config" in config:
        for name in PROCESSOR:
            found = cached_file(
                base,
                name,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
            if found is not None:
                yield Path(found)


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
