"""The options of `[[environment]]`, which every environment has."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from drpo_cli.settings.base import Count, Settings

OWN_TOOL = re.compile(r"(.*?\.py)((?::[^/:]*)?(?:: .*)?)", re.DOTALL)
VARIABLE = re.compile(r"[A-Za-z_]\w*=(?:\$(\w+)|.*)", re.DOTALL)
"""What stands before a command, as in a shell: `TOKEN=$TOKEN`."""
MCP = re.compile(r"(mcp\s*(?:\[[^\]]*\])?\s*:)(.*)", re.DOTALL)


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
    (`"mcp: command arguments"`). Options follow the name: `"python: seconds=5"`. Relative paths
    count from the folder of the spec."""
    max_turns: Count = 8
    """Most actions of the policy in an episode; then it ends, as it is. Each has up to
    `rollout.max_new_tokens` tokens."""
    max_tokens_per_episode: Count | None = None
    """Most tokens of an episode after its first prompt, sampled or observed; no limit but the
    context if not set."""
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest time of one call, in seconds; after it, the call has failed and its process is
    killed."""
    episode_timeout_s: Annotated[float, Field(gt=0)] | None = None
    """Longest time of an episode, in seconds; then it ends, as it is. No limit if not set. What
    ends then depends on the speed of the machine, so such a run cannot be repeated bit for bit."""
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

    @field_validator("tools")
    @classmethod
    def _find_files(cls, tools: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        folder: Path | None = (info.context or {}).get("folder")
        twice = sorted({tool for tool in tools if tools.count(tool) > 1})
        if twice:
            raise ValueError(f"names {', '.join(map(repr, twice))} twice; name each tool once")
        return tuple(_absolute(tool.strip(), folder) for tool in tools)

    def needs_environment(self) -> tuple[str, ...]:
        """Those that options `*_env` name, and those that servers of tools get by name."""
        names = [*super().needs_environment()]
        for server in filter(None, map(MCP.fullmatch, self.tools)):
            for word in shlex.split(server[2]):
                found = VARIABLE.fullmatch(word)
                if found is None:
                    break  # the command
                names += [found[1]] if found[1] else []
        return tuple(dict.fromkeys(names))


def _absolute(tool: str, folder: Path | None) -> str:
    """The tool with absolute paths, so that it is valid in any folder."""
    if server := MCP.fullmatch(tool):
        return _absolute_command(tool, server[1], server[2], folder)
    own = OWN_TOOL.fullmatch(tool)
    if own is None or folder is None:
        return tool
    file = (folder / os.path.expanduser(own[1])).resolve()
    if not file.is_file():
        raise ValueError(f"there is no file {file}; name a file with a typed Python function")
    return f"{file}{own[2] or ''}"


def _absolute_command(tool: str, kind: str, command: str, folder: Path | None) -> str:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"{tool!r} is not a command: {error}; close the quotation") from error
    if not words:
        raise ValueError(f"{tool!r} names no command; write 'mcp: command arguments'")
    if folder is not None:
        words = [
            os.path.abspath(folder / word)  # not where links lead: that loses a virtual environment
            if word.startswith(("./", "../")) or (folder / word).is_file()
            else word
            for word in words
        ]
    return f"{kind} {shlex.join(words)}"
