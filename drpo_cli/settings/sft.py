"""The options of the supervised warm-up: `[sft]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from drpo_cli.settings.base import Count, Settings


class SftSettings(Settings):
    """A supervised warm-up before the first step: the policy learns the answers of rows."""

    updates: Count
    """Optimizer updates of the warm-up; the moments of its AdamW are dropped after the last."""
    examples_per_update: Count = 64
    """Rows per update, over all devices; its loss is the mean over their answers' tokens."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-5
    """Peak learning rate; the other options of the optimizer are those of `[train]`."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls from its peak to 0 during the warm-up."""
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    """First updates, in which the learning rate rises linearly from zero to its peak."""
    save_every: Annotated[int, Field(ge=0)] = 0
    """Updates between checkpoints within the warm-up, as step 0; 0 saves only at its end and when
    the run is asked to stop."""
    stop_at: Annotated[float, Field(gt=0, le=1)] | None = None
    """Stop before the last update once the policy, at temperature 1, would give this share of
    answers word for word. It is computed every 10 updates, on rows that the next ones learn."""
