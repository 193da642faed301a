"""The parts of a language model of transformers, whatever they are called."""

from __future__ import annotations

from typing import Any

from torch import nn


def find_decoder(lm: Any) -> Any:
    """The part of a language model that maps tokens to the last hidden states.

    Where transformers gives another one, it is the largest part.
    """
    found = lm.get_decoder()
    if found is not lm and _outer_lists(found):
        return found
    return max(lm.children(), key=_size)


def find_layers(decoder: nn.Module) -> nn.ModuleList:
    """The list of decoder layers, whatever it is called: the one with most of the weights."""
    return max(_outer_lists(decoder), key=_size, default=nn.ModuleList())


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _outer_lists(module: nn.Module) -> list[nn.ModuleList]:
    """The lists of modules that are in no other list."""
    if isinstance(module, nn.ModuleList):
        return [module]
    return [found for child in module.children() for found in _outer_lists(child)]
