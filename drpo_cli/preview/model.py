"""The tokenizer of a run that has not begun."""

from __future__ import annotations

from typing import Any

from drpo_cli import assemble
from drpo_cli.settings import ModelSettings


def tokenizer(model: ModelSettings) -> Any:
    """The model's tokenizer; `model.prepare` makes the model's folder first where it is missing."""
    from drpo_cli.launch import prepare_model  # torch, whose import takes a while

    prepare_model(model)
    return assemble.tokenizer(model)
