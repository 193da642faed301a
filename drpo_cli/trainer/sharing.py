"""What tokens cost in a layer, and whether samples share their prompt: it then runs once for all.

Costs are those of one layer, forward and backward, in pairs of a query and a key that a kernel
computes. For n tokens, plain causality computes n²/2 pairs, and half a tile per token on the
diagonal. Under a mask, the kernel also computes the pairs that the mask hides; a kernel for
sequences of any lengths computes none of them, so sharing always saves. The other cost of a token
is the products with the layer's weight matrices. The constants were fitted on one CPU core to the
times of its kernels at 256 to 4,096 tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from drpo_cli.architecture import by_layer, query_dimensions

MASKED = 1.05
"""Cost of a pair under a mask."""
HALF_TILE = 240
"""Pairs per token that plain causality computes in vain, on the diagonal."""
WEIGHTS_PER_PAIR = 2.6
"""Weights of a layer whose work on one token takes as long as one dimension of a pair. A pair takes
two multiplications per dimension, in a slower kernel than that of the weight matrices."""


@dataclass(frozen=True)
class Costs:
    """What the tokens of a micro-batch cost, in pairs.

    token   the work of a token in the weight matrices of a layer
    masked  whether responses see a shared prompt through a mask, whose hidden pairs cost too
    padded  whether a micro-batch is a padded batch of whole sequences; they share nothing then
    """

    token: float
    masked: bool = True
    padded: bool = False

    def shares(self, prompt: int, response: int) -> bool:
        """Whether two samples with so many input tokens cost less if they share their prompt.

        If two samples should share, so should more samples, and samples with shorter responses.
        """
        if self.padded or not self.masked:
            return not self.padded
        whole = prompt + response
        masked = MASKED * response * whole
        more_attention = _causal(prompt) + 2 * masked - 2 * _causal(whole)
        return more_attention <= self.token * prompt  # one of the two prompts is saved

    def of(self, prompt: int, responses: Sequence[int]) -> float:
        """The cost of a prompt with its responses, by their input tokens; several share it."""
        if len(responses) == 1:
            whole = prompt + responses[0]
            return self.token * whole + _causal(whole)
        seeing = sum(
            MASKED * own * (prompt + own) if self.masked else _causal(own) + own * prompt
            for own in responses
        )
        return self.token * (prompt + sum(responses)) + _causal(prompt) + seeing


ALWAYS = Costs(0, masked=False)
"""Costs with which every prompt is shared."""


def _causal(tokens: int) -> float:
    return tokens * (tokens / 2 + HALF_TILE)


def costs(layers: Iterable[nn.Module], config: Any, masked: bool, padded: bool = False) -> Costs:
    """The costs of a model with these layers, on average over them.

    Only the experts that a token goes through count.
    """
    chosen = getattr(config, "num_experts_per_tok", None) or 1
    weights = [
        parameter.numel() * (chosen / parameter.shape[0] if parameter.dim() == 3 else 1)
        for layer in layers
        for parameter in layer.parameters()
    ]
    dimensions = sum(map(query_dimensions, by_layer(config))) or config.hidden_size
    return Costs(float(sum(weights)) / (dimensions * WEIGHTS_PER_PAIR), masked, padded)
