"""The options of `[lora]`: train adapters in place of the model's own weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from drpo_cli.settings.base import Count, Settings, SpecPath

if TYPE_CHECKING:
    from drpo_cli.settings import RolloutSettings

Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]


class LoraSettings(Settings):
    """Trains low-rank adapters (LoRA, arXiv 2106.09685) and freezes the model's own weights.

    A linear layer then computes W x + s B A x, of which A and B are trained. W stays in
    `model.dtype`; A and B have float32 master weights.
    """

    rank: Count = 16
    """Rows of A and columns of B."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The scaling s is `alpha / rank`, or with `rslora` alpha / √rank."""
    rslora: bool = False
    """Scale by alpha / √rank (arXiv 2312.03732), so that a higher rank is not scaled down more."""
    target_modules: Literal["all-linear"] | Names = "all-linear"
    """Linear layers with adapters: `"all-linear"`, all of the decoder layers, or a list of names,
    such as `["q_proj", "v_proj"]`. The head and experts that transformers fuses get none."""
    dropout: float = 0.0
    """Must stay 0: with dropout π would not be a function of the weights alone, and the ratio π/μ
    would be wrong."""
    start: SpecPath | None = None
    """A folder with an adapter in PEFT's format, as `drpo export` writes it, to start from; a new
    adapter if not set. It must be of this base, with the same rank, scaling and layers."""
    sync: Literal["adapter", "merged"] | None = None
    """What a weight sync pushes into the engine: the `adapter` alone, or every weight with its
    adapter `merged` into it. If not set: `adapter` with vLLM on a GPU, or where its weights are
    rounded; else `merged`."""

    @field_validator("target_modules")
    @classmethod
    def _names_one(cls, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not names:
            raise ValueError('is empty; name at least one linear layer, or set it to "all-linear"')
        return names

    @field_validator("dropout")
    @classmethod
    def _is_off(cls, dropout: float) -> float:
        if dropout:
            raise ValueError(
                "must be 0: with dropout π is not a function of the weights alone, so the ratio "
                "π/μ would be wrong; remove it"
            )
        return dropout

    def sync_into(self, rollout: RolloutSettings, cuda: bool) -> Literal["adapter", "merged"]:
        """What a sync pushes into an engine of these options on a GPU, or on a CPU."""
        return self.sync or ("adapter" if rollout.pushes_adapters(cuda) else "merged")

    @property
    def scaling(self) -> float:
        """The factor s of B A x."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)
