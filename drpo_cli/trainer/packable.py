"""Proves that a model keeps packed sequences apart, before its weights are loaded.

A packed row is right if attention alone mixes tokens, and all attention is ours, which knows the
row's layout. So a copy of the model without values runs on a packed row: the layout must reach
attention in every layer, attention must compute all that it is asked for, and no layer may have a
convolution, as layers with a recurrent state do.
"""

from __future__ import annotations

import copy
import inspect
from functools import partial
from typing import Any

import torch
from torch import nn

from drpo_cli import pretrained
from drpo_cli.architecture import ASKED, PACKABLE_LAYERS
from drpo_cli.errors import UserError
from drpo_cli.trainer.attention import BUCKETS, LATER_TOKENS
from drpo_cli.trainer.decoder import find_decoder, find_layers
from drpo_cli.trainer.layout import Layout, Padded, Span

META = torch.device("meta")


def choose_layout(layout: str, config: Any, trust_remote_code: bool) -> str | None:
    """Why the rows of this model are padded, by `TrainSettings.layout`; None for packed rows.

    Raises UserError for a model whose tokens see later ones: padding would change it, too.
    """
    found = find_obstacle(config, trust_remote_code)
    if found and LATER_TOKENS in found:
        raise UserError(
            f"model: a model of type {config.model_type} with this config.json is not causal: "
            "its tokens see later ones",
            "name a causal language model",
        )
    return ASKED if layout == "padded" else found


def find_obstacle(config: Any, trust_remote_code: bool) -> str | None:
    """Why a model of this configuration cannot be trained on packed rows; None where it can."""
    try:
        with META, torch.no_grad():
            return _find_obstacle(config, trust_remote_code)
    except UserError as error:
        return error.what.removeprefix("model: ")
    except pretrained.READING as error:  # almost anything: the model's code is not ours
        return f"it does not run on a packed row ({type(error).__name__}: {error})"


class _Seen(Layout):
    """The layout of two sequences. It remembers the layers from which attention asked for it."""

    def __init__(self) -> None:
        super().__init__([Span(0, 3), Span(3, 4)], META)
        self.layer = -1
        self.layers: set[int] = set()

    @property
    def padded(self) -> Padded:
        """The spans as padded batches."""
        self.layers.add(self.layer)
        return super().padded

    def enter(self, layer: int, *_: Any) -> None:
        """A layer begins."""
        self.layer = layer


def _find_obstacle(config: Any, trust_remote_code: bool) -> str | None:
    text = config.get_text_config()
    if other := set(getattr(text, "layer_types", None) or ()) - PACKABLE_LAYERS:
        return f"it has {', '.join(sorted(other))} layers"
    config = copy.deepcopy(config)
    # some decoders would look for it in the values; some configurations do not let it be set
    vars(config.get_text_config())["pad_token_id"] = None
    lm = pretrained.make(
        config,
        experts_implementation="batched_mm",  # which runs without values, too
        attn_implementation=BUCKETS,
        trust_remote_code=trust_remote_code,
    ).eval()
    decoder: Any = find_decoder(lm)
    layers = find_layers(decoder)
    if any(isinstance(part, nn.Conv1d) for layer in layers for part in layer.modules()):
        return "its layers have convolutions"
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return "it takes no position ids"
    seen = _Seen()
    for place, layer in enumerate(layers):
        layer.register_forward_pre_hook(partial(seen.enter, place))
    position_ids = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    decoder(
        input_ids=torch.zeros_like(position_ids),
        position_ids=position_ids,
        use_cache=False,
        layout=seen,
    )
    if not layers or seen.layers != set(range(len(layers))):
        return "its layers do not pass keyword arguments to attention"
    return None
