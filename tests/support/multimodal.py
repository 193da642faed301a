"""Tiny random multimodal models as Hugging Face folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForMultimodalLM, PretrainedConfig

from support.models import SIZES, SPREAD, tokenizer

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 16,
}
IMAGES = {**TOWER, "image_size": 28, "patch_size": 14}
QWEN: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": SIZES["hidden_size"],
    "patch_size": 14,
    "num_position_embeddings": 16,
}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
ROPE = {"rope_type": "default", "mrope_section": [8, 4, 4]}
ONE_IMAGE = {"image_token_id": 60}

MULTIMODAL: Mapping[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gemma3": (
        "Gemma3Config",
        WINDOWS,
        {**IMAGES, "head_dim": None},
        {"mm_tokens_per_image": 4, "image_token_index": 60, "tie_word_embeddings": True},
    ),
    "gemma4": (
        "Gemma4Config",
        {**WINDOWS, "global_head_dim": 32, "hidden_size_per_layer_input": 0},
        {**TOWER, "num_key_value_heads": 2},
        {**ONE_IMAGE, "audio_config": None, "tie_word_embeddings": True},
    ),
    "qwen3_5": ("Qwen3_5Config", LINEAR, QWEN, {**ONE_IMAGE, "tie_word_embeddings": False}),
    "qwen3_5_moe": (
        "Qwen3_5MoeConfig",
        {
            **LINEAR,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
        QWEN,
        ONE_IMAGE,
    ),
    "qwen3_vl": (
        "Qwen3VLConfig",
        {"rope_scaling": {**ROPE, "mrope_interleaved": True}},
        {**QWEN, "deepstack_visual_indexes": [0]},
        ONE_IMAGE,
    ),
    "mistral3": (
        "Mistral3Config",
        {"model_type": "mistral", "sliding_window": None},
        {**IMAGES, "model_type": "pixtral"},
        {"image_token_index": 60},
    ),
    "llama4": (
        "Llama4Config",
        {"intermediate_size_mlp": 128, "num_local_experts": 4},
        {**IMAGES, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
        {"image_token_index": 60},
    ),
}
"""Configuration class, and what it has for text, for images, and at the top."""
SIDE = {"preprocessor_config.json": {"size": 28}, "processor_config.json": {"image_seq_length": 4}}


def tiny_multimodal(folder: Path, kind: str, names: Callable[[str], str] = str) -> Path:
    """Writes a random model of a kind, with tokenizer and processor files. Returns `folder`."""
    name, text, images, top = MULTIMODAL[kind]
    config: PretrainedConfig = getattr(transformers, name)(
        text_config={**SIZES, **text},
        vision_config={key: value for key, value in images.items() if value is not None},
        **top,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = AutoModelForMultimodalLM.from_config(config)
        for parameter in lm.parameters():
            torch.nn.init.normal_(parameter, std=SPREAD)
    lm.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    for file, content in SIDE.items():
        (folder / file).write_text(json.dumps(content))
    return folder
