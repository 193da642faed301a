"""Every causal language model of transformers has decoder layers that are found, and a layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from drpo_cli import pretrained
from drpo_cli.trainer.decoder import find_decoder, find_layers
from drpo_cli.trainer.packable import find_obstacle
from support.architectures import NOT_MADE, PACKED, PADDED

CONFIGS: dict[str, Any] = {one.model_type: one for one in MODEL_FOR_CAUSAL_LM_MAPPING}


@contextmanager
def quiet() -> Iterator[None]:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def shrunk(kind: str) -> Any:
    """The default configuration of an architecture, of four layers where it lets them be set."""
    try:
        return CONFIGS[kind](num_hidden_layers=4)
    except Exception:  # each has its own checks
        return CONFIGS[kind]()


def test_no_architecture_is_left_out() -> None:
    assert sorted([*PACKED, *PADDED, *NOT_MADE]) == sorted(CONFIGS)


@pytest.mark.parametrize("kind", [*PACKED, *PADDED])
def test_its_layers_and_its_layout_are_found(kind: str) -> None:
    with quiet():
        config = shrunk(kind)
        with torch.device("meta"):
            layers = find_layers(find_decoder(pretrained.make(config)))
        assert layers
        assert (find_obstacle(config, False) is None) == (kind in PACKED)


@pytest.mark.parametrize("kind", NOT_MADE)
def test_its_default_configuration_is_of_no_model(kind: str) -> None:
    with quiet(), torch.device("meta"), pytest.raises(Exception, match=""):
        pretrained.make(shrunk(kind))
