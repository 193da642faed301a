"""The options of `[advantage]`, which every advantage has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from drpo_cli.settings.base import Settings


class AdvantageSettings(Settings):
    """How much better than expected a response was."""

    credit: Literal["episode", "turn"] = "episode"
    """What the tokens of an episode with several turns are judged by: `episode`, its total reward;
    or `turn`, the rewards from their own turn on, compared with those of the group's episodes from
    the same turn on. A turn that too few of them reach is judged by the total."""
    turn_discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """γ of `credit = "turn"`: the reward of a turn counts γ times as much one turn earlier."""
