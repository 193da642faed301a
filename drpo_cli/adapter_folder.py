"""Adapters in PEFT's format (`adapter_config.json`, `adapter_model.safetensors`), and their merge.

A merged weight is W + s B A, as a deferred tensor: of each, only the rows that are asked for are
computed. What would make another model of base and adapter than this is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drpo_cli.errors import UserError
from drpo_cli.model_folder import ADAPTER_CONFIG, listed

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before the names of a model's layers in files."""
OTHER_KINDS = {
    "use_dora": "DoRA, which scales whole columns",
    "lora_bias": "biases in its adapters",
    "modules_to_save": "layers that were trained whole",
    "trainable_token_indices": "tokens that were trained",
    "layer_replication": "layers that are there several times",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "target_parameters": "adapters of stacked experts",
}
"""What peft's configuration may ask for beside W + s B A."""
MERGE_WITH_PEFT = (
    "merge it with peft: PeftModel.from_pretrained(base, adapter).merge_and_unload()"
    ".save_pretrained(FOLDER), and name FOLDER"
)


@dataclass(frozen=True)
class Adapter:
    """An adapter: how it is applied, and A and B of each layer, by the layer's name."""

    config: Mapping[str, Any]
    pairs: Mapping[str, tuple[Tensor, Tensor]]

    def scaling(self, layer: str) -> float:
        """The factor s of a layer, with the exceptions that the configuration may name."""
        from peft.utils.other import get_pattern_key

        def value(pattern: str, usual: str) -> float:
            known = self.config.get(pattern) or {}
            return float(known.get(get_pattern_key(list(known), layer), self.config[usual]))

        rank, alpha = value("rank_pattern", "r"), value("alpha_pattern", "lora_alpha")
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration. Raises UserError for one that is not LoRA alone."""
    path = folder / ADAPTER_CONFIG
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not the configuration of an adapter: {error}") from error
    if config.get("peft_type") != "LORA":
        raise UserError(f"{folder} is a {config.get('peft_type')} adapter, and not LoRA")
    other = [what for key, what in OTHER_KINDS.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        other.append("biases that were trained")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(("pissa", "olora", "corda", "loftq")):
        other.append(f"{init}, which changes the base too")
    if other:
        raise UserError(f"{folder} has {listed(other)}, beside plain LoRA", MERGE_WITH_PEFT)
    if not all(isinstance(config.get(key), int | float) for key in ("r", "lora_alpha")):
        raise UserError(f"{path} has no numbers r and lora_alpha")
    return config


def find_base(folder: Path) -> str:
    """The base model's folder or hub id. A relative path counts from here, else from the adapter.

    Raises UserError for an adapter that names none.
    """
    named = read_config(folder).get("base_model_name_or_path")
    if not named:
        raise UserError(
            f"{folder}/{ADAPTER_CONFIG} does not name its base model",
            "write its folder or hub id there, as base_model_name_or_path",
        )
    beside = folder / str(named)
    return str(beside.resolve() if not Path(named).exists() and beside.is_dir() else named)


def read_adapter(folder: Path) -> Adapter:
    """An adapter, its matrices deferred. Raises UserError for what is not LoRA in PEFT's format."""
    from safetensors import SafetensorError

    from drpo_cli.deferred import read_files

    config = read_config(folder)
    try:
        tensors = read_files([folder / WEIGHTS])
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS} does not load: {error}") from error
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, a in tensors.items():
        b = tensors.get(name.replace(".lora_A.", ".lora_B."))
        if name.endswith(".lora_A.weight") and b is not None:
            pairs[name.removeprefix(PREFIX).removesuffix(".lora_A.weight")] = a, b
    ends = (".lora_A.weight", ".lora_B.weight")
    known = {f"{PREFIX}{layer}{end}" for layer in pairs for end in ends}
    if wrong := sorted(tensors.keys() - known):
        raise UserError(
            f"{folder / WEIGHTS} has {listed(wrong)}, which is not A and B of a linear layer",
            MERGE_WITH_PEFT,
        )
    return Adapter(config, pairs)


def merge(lm: Any, adapter: Adapter, where: str) -> None:
    """Puts W + s B A in the place of W, in a model whose weights are deferred.

    Raises UserError, naming `where`, if the adapter is of another model.
    """
    from torch import nn

    weights = dict(lm.named_parameters(remove_duplicate=False))
    kept = {id(lm.get_input_embeddings().weight)}
    for layer, (a, b) in adapter.pairs.items():
        weight = weights.get(f"{layer}.weight")
        if weight is None or weight.ndim != 2 or id(weight) in kept:
            raise _is_of_another(where, lm, f"which has no linear layer {layer} of its own")
        shape = (b.shape[0], a.shape[1])
        flipped = bool(adapter.config.get("fan_in_fan_out"))  # GPT-2 stores W transposed
        if tuple(weight.shape) != (shape[::-1] if flipped else shape) or a.shape[0] != b.shape[1]:
            there = " × ".join(map(str, weight.shape))
            raise _is_of_another(where, lm, f"whose {layer} is {there}, unlike its A and B")
        module = lm.get_submodule(layer)
        merged = _merged(weight, a, b, adapter.scaling(layer), flipped)
        module.weight = nn.Parameter(merged, weight.requires_grad)


def _is_of_another(where: str, lm: Any, why: str) -> UserError:
    return UserError(
        f"{where} is an adapter of another model than {lm.name_or_path}, {why}",
        f"name its base in {ADAPTER_CONFIG}, as base_model_name_or_path",
    )


def _merged(weight: Tensor, a: Tensor, b: Tensor, scaling: float, flipped: bool) -> Tensor:
    import torch

    from drpo_cli.deferred import Deferred, whole

    def rows(first: int, last: int) -> Tensor:
        own = weight.rows(first, last) if isinstance(weight, Deferred) else weight[first:last]
        whole_a, whole_b = whole(a).float(), whole(b).float()
        cut = whole_a[:, first:last].T if flipped else whole_b[first:last]
        change = cut @ (whole_b.T if flipped else whole_a)
        merged: Tensor = (own.float() + scaling * change).to(own.dtype)
        return merged

    return Deferred(torch.empty(weight.shape, dtype=weight.dtype, device="meta"), rows)
