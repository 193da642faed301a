"""The options of `[[environment]]`, which every environment has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from drpo_cli.settings.base import Count, Settings


class EnvironmentSettings(Settings):
    """Where episodes of several turns happen. Every environment may add options of its own."""

    name: Annotated[str, Field(min_length=1)] | None = None
    """Name in metrics, samples and sources; derived from the type if not set."""
    weight: float = 1.0
    """Factor of the environment's own reward in the total, to which those of `[[reward]]` are
    added; 0 makes it a metric that is only recorded."""
    tools: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), strict=False)
    """Tools that the model may call: built-in ones (`"calculator"`, `"python"`, `"submit"`), typed
    Python functions (`"./tools.py:search"`), and servers of the Model Context Protocol
    (`"mcp: command arguments"`)."""
    max_turns: Count = 8
    """Most actions of the policy in an episode; then it ends, as it is."""
    max_tokens_per_episode: Count | None = None
    """Most tokens of an episode after its first prompt, sampled or observed; no limit but the
    context if not set."""
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest time of one call, in seconds; after it, the call has failed and its process is
    killed."""
    episode_timeout_s: Annotated[float, Field(gt=0)] | None = None
    """Longest time of an episode, in seconds; then it ends, as it is. No limit if not set."""
    workers: Count = 64
    """Processes per rank. Each has one episode at a time, or `concurrency` of them if the
    environment is async."""
    concurrency: Count = 64
    """Episodes that live in each process at the same time, for an async environment."""
    on_error: Literal["stop", "zero", "skip_sample"] = "stop"
    """What a failed call does: `stop` ends the run; `zero` ends the episode with a total of 0;
    `skip_sample` leaves the episode out of advantages and losses. Every failure is counted, and
    recorded in full in quarantine.jsonl."""
    history: Literal["template", "keep"] = "template"
    """What the model sees of its earlier turns: what the chat `template` makes of them, which may
    drop its thinking, so that the episode is trained as several rows; or `keep` every token."""
