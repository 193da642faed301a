"""How vLLM makes a model whose weights a trainer will push: no file is read.

vLLM's own "dummy" format also fills persistent buffers with random numbers, and a push brings only
those that checkpoints have. Importing this module imports vLLM's models.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.weight_utils import initialize_single_dummy_weight


class PushLoader(BaseModelLoader):  # type: ignore[misc]
    """Fills parameters with small numbers, and leaves buffers as the model made them."""

    def download_model(self, model_config: Any) -> None:
        """Does nothing: no file of weights is needed."""

    def load_weights(self, model: nn.Module, model_config: Any) -> None:
        """Gives every parameter values with which a pass can be profiled."""
        for parameter in model.parameters():
            initialize_single_dummy_weight(parameter)
