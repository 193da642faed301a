"""Which samples of a prompt share it: it runs once for them, but their attention needs a mask.

Costs are those of one layer, forward and backward, counted in pairs of a query and a key that a
kernel computes. Plain causality computes n²/2 pairs of a sequence of n tokens, and half a tile for
each token besides, on the diagonal; a mask has the kernel compute the pairs that it hides, too.
What else a token costs is its way through the layer's weight matrices. The constants were fitted on
one CPU core, to the times of these kernels at 256 to 4,096 tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

MASKED = 1.05
"""Cost of a pair under a mask."""
HALF_TILE = 240
"""Pairs on the diagonal that plain causality computes in vain, a token."""
WEIGHTS_A_PAIR = 2.6
"""Weights of a layer whose work on one token takes as long as one dimension of a pair. A pair has
two multiplications a dimension, in a slower kernel than that of the weight matrices."""


def shares(prompt: int, response: int, token_cost: float) -> bool:
    """Whether two samples of so many input tokens cost less with their prompt in common.

    token_cost  of a token in the weight matrices of a layer, in pairs

    Then so do more of them, and responses that are shorter.
    """
    whole = prompt + response
    masked = MASKED * response * whole
    more_attention = _causal(prompt) + 2 * masked - 2 * _causal(whole)
    return more_attention <= token_cost * prompt  # one of the two prompts is saved


def _causal(tokens: int) -> float:
    return tokens * (tokens / 2 + HALF_TILE)


def token_cost(layers: Iterable[nn.Module], config: Any) -> float:
    """What a token costs in a layer's weight matrices, in pairs, on average over the layers.

    Of experts, those that a token goes through count.
    """
    chosen = getattr(config, "num_experts_per_tok", None) or 1
    weights = [
        parameter.numel() * (chosen / parameter.shape[0] if parameter.dim() == 3 else 1)
        for layer in layers
        for parameter in layer.parameters()
    ]
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return float(sum(weights)) / (config.num_hidden_layers * WEIGHTS_A_PAIR * heads * head_dim)
