"""What an engine computes with: its dtype, and weights as a weight-only quantised one holds them.

Rounded weights are spelt out again before they go into the engine. An output channel w is stored
as round(w / s) with a scale of its own, s = max |w| / the largest value of the format. Weight-only
engines dequantise before they multiply, so computing with the rounded weights gives their log μ.
Embeddings, head, norms and a mixture's router stay whole, as they do there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = {"int8": 127.0, "fp8": torch.finfo(torch.float8_e4m3fn).max}
WHOLE = ("embed", "lm_head", "norm", ".gate.")


@dataclass(frozen=True)
class Precision:
    """What trainer and engine compute with, and whether the engine's weights are rounded."""

    train: str
    rollout: str
    rounding: str | None = None

    @property
    def coarsest(self) -> str:
        """What the gap between the two, rounding left out, is judged by."""
        return "bfloat16" if "bfloat16" in (self.train, self.rollout) else "float32"

    def of(self, name: str, weight: Tensor) -> Tensor:
        """A weight of the trainer as the engine is to have it."""
        if self.rounding is not None:
            weight = rounded(name, weight, self.rounding)
        dtype: torch.dtype = getattr(torch, self.rollout)
        return weight.to(dtype)


def rounded(name: str, weight: Tensor, kind: str) -> Tensor:
    """A weight of this name after rounding, in its own shape and dtype; one scale a last axis."""
    if weight.ndim < 2 or any(part in name for part in WHOLE):
        return weight
    scale = weight.abs().amax(-1, keepdim=True).float() / LARGEST[kind]
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    steps = weight.float() / scale
    stored = steps.round() if kind == "int8" else steps.to(torch.float8_e4m3fn).float()
    return (stored * scale).to(weight.dtype)
