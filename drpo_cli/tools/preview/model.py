"""The tokenizer of a run that has not begun."""

from __future__ import annotations

from typing import Any

from drpo_cli.settings import ModelSettings
from drpo_cli.step import build as assemble


def tokenizer(model: ModelSettings) -> Any:
    """The model's tokenizer; `model.prepare` makes the model's folder first where it is missing."""
    from drpo_cli.launch.launcher import prepare_model  # torch, whose import takes a while

    prepare_model(model)
    return assemble.tokenizer(model)
