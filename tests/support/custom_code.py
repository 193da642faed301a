"""A model folder with modelling code of its own, in three files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from support.models import SIZES, SPREAD, tokenizer

FILES = {
    "configuration_scaled.py": """
from transformers import Qwen3Config


class ScaledConfig(Qwen3Config):
    model_type = "scaled"
""",
    "scale.py": """
import torch
from torch import nn


class Scaled(nn.Module):
    def __init__(self, inner, size):
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, hidden):
        return self.inner(hidden) * self.scale
""",
    "modeling_scaled.py": """
from transformers import Qwen3ForCausalLM, Qwen3Model

from .configuration_scaled import ScaledConfig
from .scale import Scaled


class ScaledModel(Qwen3Model):
    config_class = ScaledConfig

    def __init__(self, config):
        super().__init__(config)
        self.norm = Scaled(self.norm, config.hidden_size)
        self.post_init()


class ScaledForCausalLM(Qwen3ForCausalLM):
    config_class = ScaledConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = ScaledModel(config)
        self.post_init()
""",
}
AUTO_MAP = {
    "AutoConfig": "configuration_scaled.ScaledConfig",
    "AutoModel": "modeling_scaled.ScaledModel",  # what vLLM asks for
    "AutoModelForCausalLM": "modeling_scaled.ScaledForCausalLM",
}


def custom_model(folder: Path, **overrides: Any) -> Path:
    """Writes a random one, with a tokenizer; `overrides` go to its configuration."""
    folder.mkdir(parents=True)
    for name, code in FILES.items():
        (folder / name).write_text(code)
    keys = {"model_type": "scaled", "auto_map": AUTO_MAP, **SIZES, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps({**keys, **overrides}))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
        for parameter in lm.parameters():
            torch.nn.init.normal_(parameter, mean=1.0 * (parameter.ndim == 1), std=SPREAD)
    lm.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
