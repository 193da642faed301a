"""The text model of a multimodal checkpoint as a vLLM model of its own.

vLLM's multimodal classes import what prepares images, which a machine without torchvision does not
have, and text needs none of it. Where vLLM has a class for the text model alone, the engine runs
that; elsewhere the multimodal class without its other inputs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from drpo_cli import pretrained
from drpo_cli.rollout.engine.ends import load_config
from drpo_cli.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

PREFIXES = (
    (re.compile(r"^(model\.language_model|language_model\.model)\."), "model."),
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
)


def text_arguments(model: ModelSettings, push: str | None, head_dtype: str) -> dict[str, Any]:
    """What `vllm.LLM` needs to run the text model of a multimodal checkpoint; else nothing.

    As a model of its own it must get its weights by `push`, a load format that reads no file.
    `head_dtype` is that of `[rollout]`.
    """
    config = load_config(model)
    if not pretrained.is_multimodal(config):
        return {}
    name = _find_class(config) if push else None
    if name is None:
        return {"language_model_only": True}  # no room for images, and no parts for them
    return {"hf_overrides": partial(_take_text, name, head_dtype), "load_format": push}


def architectures(config: Any) -> list[str]:
    """The classes of which vLLM runs the first that it has."""
    if pretrained.is_multimodal(config) and (name := _find_class(config)) is not None:
        return [name]
    return list(config.architectures or ())


def _find_class(config: Any) -> str | None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES
    from vllm import ModelRegistry

    name = NAMES.get(config.get_text_config().model_type)
    return name if name in ModelRegistry.get_supported_archs() else None


def _take_text(architecture: str, head_dtype: str, config: Any) -> Any:
    """The configuration of the text model; one without is left as it is."""
    if (text := getattr(config, "text_config", None)) is None:
        return config
    text = copy.deepcopy(text)
    text.architectures = [architecture]
    text.tie_word_embeddings = config.tie_word_embeddings
    if (quantised := getattr(config, "quantization_config", None)) is not None:
        text.quantization_config = quantised
    return set_head_dtype(head_dtype, text)


def set_head_dtype(dtype: str, config: Any) -> Any:
    """Has vLLM compute logits in this dtype, or in the `model`'s; returns the configuration.

    Of a multimodal model, vLLM reads the head's dtype in the configuration of its text model.
    """
    for part in (config, config.get_text_config()):
        part.head_dtype = dtype
    return config


def text_name(name: str) -> str:
    """The name of a tensor in a checkpoint of the text model alone."""
    for prefix, new in PREFIXES:
        name = prefix.sub(new, name)
    return name


def stored_weights(model: ModelSettings) -> Iterator[tuple[str, Tensor]]:
    """The weights of a folder as a trainer would send them, read one after the other."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.core_model_loading import revert_weight_conversion

    from drpo_cli.deferred import whole

    lm = pretrained.load_deferred(
        AutoModelForCausalLM,
        model.path,
        "model.path",
        trust_remote_code=model.trust_remote_code,
        dtype=getattr(torch, model.dtype),
        generation_config=GenerationConfig(),
    )
    saved = lm.state_dict().keys()
    yield from ((name, buffer) for name, buffer in lm.named_buffers() if name in saved)
    for name, weight in lm.named_parameters():
        yield from revert_weight_conversion(lm, {name: whole(weight)}).items()
