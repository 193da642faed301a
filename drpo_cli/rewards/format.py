"""1 where the completion is the given tags in order and nothing else, else 0.

Each tag is opened and closed once, one after the other: `tags = ["think", "answer"]` asks for

    <think> … </think> <answer> … </answer>

with only white space around and between. Tags are compared letter by letter; a tag that is not in
the list is ordinary text. The text between the tags is not read, so a model learns the format
within a few steps, and then every response gets the same score: give it a small weight next to a
reward of the answer, or `gate = true`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, field_validator

from drpo_cli.settings import RewardSettings

INLINE = True

Tag = Annotated[str, Field(pattern=r"^[\w.:-]+$")]


class Config(RewardSettings):
    """Options of the format."""

    tags: Annotated[tuple[Tag, ...], Field(min_length=1)] = Field(
        default=("think", "answer"), strict=False
    )
    """Names of the tags, in their order."""
    whole: bool = True
    """Allow only white space outside the tags. If not, the answer can be written outside, where a
    reward that reads the tag does not see it."""
    filled: bool = True
    """Refuse a tag that is empty or has only white space. If not, `<think></think>` is good."""
    opened: bool = False
    """The prompt, or its chat template, ends with the first tag already open; the completion
    begins inside it."""
    partial: bool = False
    """Give the share of markers (`<think>` and `</think>` are two) that occur exactly once and in
    their place, and 1 only where everything is right. It helps a model that never finds the format
    by chance; until it does, it is also paid for bare markers without a word of thought."""

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(tags)) < len(tags):
            raise ValueError("a tag is named twice; name each once")
        return tags


def reward(completion: str, config: Config) -> float:
    """1.0 or 0.0; with `partial` from 0 to 1, and less than 1 where anything is wrong."""
    text = f"<{config.tags[0]}>{completion}" if config.opened else completion
    markers = [marker for tag in config.tags for marker in (f"<{tag}>", f"</{tag}>")]
    in_place = _count_in_place(text, markers)
    if in_place == len(markers) and _content_holds(text, markers, config):
        return 1.0
    given = 1 if config.opened else 0  # the marker that the prompt wrote earns nothing
    return max(0, in_place - given) / (len(markers) - given + 1) if config.partial else 0.0


def _count_in_place(text: str, markers: list[str]) -> int:
    """Counts the markers that occur once, and after the last one that does."""
    end = count = 0
    for marker in markers:
        at = text.find(marker)
        if at >= end and text.find(marker, at + 1) < 0:
            count, end = count + 1, at + len(marker)
    return count


def _content_holds(text: str, markers: list[str], config: Config) -> bool:
    """Whether the text between and inside the tags is allowed; all markers are in place."""
    starts = [text.find(marker) for marker in markers]
    ends = [start + len(marker) for start, marker in zip(starts, markers, strict=True)]
    edges = [0, *(at for span in zip(starts, ends, strict=True) for at in span), len(text)]
    between = [text[a:b].strip() for a, b in list(pairwise(edges))[::2]]
    outside, inside = between[::2], between[1::2]
    return not (config.whole and any(outside)) and not (config.filled and not all(inside))


_GOOD = "<think>6·7</think>\n<answer>42</answer>\n"
_PARTIAL = Config(partial=True)
EXAMPLES = [
    ({"completion": _GOOD, "config": Config()}, 1.0),
    ({"completion": f"Well: {_GOOD}", "config": Config()}, 0.0),
    ({"completion": f"Well: {_GOOD}", "config": Config(whole=False)}, 1.0),
    ({"completion": "<answer>42</answer><think>6·7</think>", "config": Config()}, 0.0),
    ({"completion": "<think></think><answer>42</answer>", "config": Config()}, 0.0),
    ({"completion": "<think></think><answer>42</answer>", "config": Config(filled=False)}, 1.0),
    ({"completion": "6·7</think><answer>42</answer>", "config": Config(opened=True)}, 1.0),
    ({"completion": f"Well: {_GOOD}", "config": _PARTIAL}, 0.8),
    ({"completion": "<think>6·7</think> 42", "config": _PARTIAL}, 0.4),
    ({"completion": "42", "config": _PARTIAL}, 0.0),
]
