"""The numbers an engine computes with: its dtype, and weights rounded as if they were quantised.

Weight-only quantised engines store an output channel w as round(w / s) with a scale of its own,
s = max |w| / the largest value of the format, and dequantise before they multiply. So an engine
that computes with weights rounded in this way gives the same log μ. Embeddings, head, norms and the
router of a mixture are not rounded, as in those engines.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = {"int8": 127.0, "fp8": torch.finfo(torch.float8_e4m3fn).max}
NOT_ROUNDED = ("embed", "lm_head", "norm", ".gate.")


@dataclass(frozen=True)
class Precision:
    """The compute dtypes of trainer and engine, and how the engine's weights are rounded."""

    train: str
    rollout: str
    rounding: str | None = None

    @property
    def coarsest(self) -> str:
        """The coarser of the two dtypes, which decides how large a gap between the two is sound."""
        return "bfloat16" if "bfloat16" in (self.train, self.rollout) else "float32"

    def convert(self, name: str, weight: Tensor) -> Tensor:
        """Rounds a weight of the trainer and casts it to the engine's dtype."""
        if self.rounding is not None:
            weight = round_weight(name, weight, self.rounding)
        dtype: torch.dtype = getattr(torch, self.rollout)
        return weight.to(dtype)


def round_weight(name: str, weight: Tensor, kind: str) -> Tensor:
    """Rounds a weight, with one scale per row of its last axis; shape and dtype stay.

    The name decides: a weight that quantised engines keep whole is returned as it is.
    """
    if weight.ndim < 2 or any(part in name for part in NOT_ROUNDED):
        return weight
    scale = weight.abs().amax(-1, keepdim=True).float() / LARGEST[kind]
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    steps = weight.float() / scale
    stored = steps.round() if kind == "int8" else steps.to(torch.float8_e4m3fn).float()
    return (stored * scale).to(weight.dtype)
