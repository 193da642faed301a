"""A model's shapes from its configuration alone: no weight is read, and none is held."""

from __future__ import annotations

from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.settings import ModelSettings


def config_of(settings: ModelSettings, key: str) -> Any:
    """The model's configuration; UserError where there is none to be had."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            settings.path, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"{key}: {settings.path} has no configuration that loads ({_first_line(error)}); name "
            f"a folder with the model's config.json, or download it: hf download "
            f"{settings.path} config.json"
        ) from error


def causal_lm(config: Any, layers: int | None = None) -> Any:
    """The model, with its first decoder layers only if `layers` says so; under a fake mode.

    Of a model with several kinds of attention one layer of each kind comes first, as every kind
    has a mask of its own.
    """
    import copy

    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    from drpo_cli.trainer.attention import NAME

    lm = AutoModelForCausalLM.from_config(
        copy.deepcopy(config), dtype=torch.float32, attn_implementation=NAME
    ).eval()
    if layers is not None:
        decoder = lm.get_decoder()
        decoder.layers = nn.ModuleList(_some(list(decoder.layers), config, layers))
    return lm


def _some(all_layers: list[Any], config: Any, count: int) -> list[Any]:
    kinds = getattr(config.get_text_config(), "layer_types", None) or ["all"] * len(all_layers)
    firsts = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    others = [i for i in range(len(all_layers)) if i not in firsts]
    return [all_layers[i] for i in sorted([*firsts, *others][:count])]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
