"""Decides whether samples share their prompt: it runs once for all, but attention needs a mask.

Costs are those of one layer, forward and backward, in pairs of a query and a key that a kernel
computes. For n tokens, plain causality computes n²/2 pairs, and half a tile per token on the
diagonal. Under a mask, the kernel also computes the pairs that the mask hides. The other cost of a
token is the products with the layer's weight matrices. The constants were fitted on one CPU core to
the times of these kernels at 256 to 4,096 tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

MASKED = 1.05
"""Cost of a pair under a mask."""
HALF_TILE = 240
"""Pairs per token that plain causality computes in vain, on the diagonal."""
WEIGHTS_PER_PAIR = 2.6
"""Weights of a layer whose work on one token takes as long as one dimension of a pair. A pair takes
two multiplications per dimension, in a slower kernel than that of the weight matrices."""


def shares(prompt: int, response: int, token_cost: float) -> bool:
    """Whether two samples with so many input tokens cost less if they share their prompt.

    `token_cost` is the cost of a token in the weight matrices of a layer, in pairs. If two samples
    should share, so should more samples, and samples with shorter responses.
    """
    whole = prompt + response
    masked = MASKED * response * whole
    more_attention = _causal(prompt) + 2 * masked - 2 * _causal(whole)
    return more_attention <= token_cost * prompt  # one of the two prompts is saved


def _causal(tokens: int) -> float:
    return tokens * (tokens / 2 + HALF_TILE)


def token_cost(layers: Iterable[nn.Module], config: Any) -> float:
    """The cost of a token in a layer's weight matrices, in pairs, averaged over the layers.

    Only the experts that a token goes through count.
    """
    chosen = getattr(config, "num_experts_per_tok", None) or 1
    weights = [
        parameter.numel() * (chosen / parameter.shape[0] if parameter.dim() == 3 else 1)
        for layer in layers
        for parameter in layer.parameters()
    ]
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    dimensions = float(config.num_hidden_layers * heads * head_dim)
    return float(sum(weights)) / (dimensions * WEIGHTS_PER_PAIR)
