"""Specs for tests, the plugin files that they name, and the messages that a bad spec gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli.spec import SpecError, load

PLUGINS = '''
from typing import Annotated
from pydantic import Field
from drpo_cli.settings import SourceSettings, SpecPath

class Config(SourceSettings):
    """Options."""
    path: SpecPath
    """Where the rows are."""
    limit: Annotated[int, Field(ge=1)] | str = 5
    """How many."""

def rows(config): ...
'''
REWARDS = "def good(completion): ...\ndef better(completion): ...\n"
GOOD = """\
[run]
name = "test"
steps = 10

[model]
path = "some-org/some-model"

[[data]]
type = "./sources.py:rows"
path = "rows.jsonl"

[rollout]
prompts_per_step = 8
samples_per_prompt = 4
max_new_tokens = 16

[[reward]]
type = "./rewards.py:good"

[objective]
type = "drpo"
delta = 0.2
"""


HEAD = """\
[run]
name = "test"
steps = 10
[model]
path = "some-org/some-model"
"""
DATA = '[[data]]\ntype = "arithmetic"\n'
ROLLOUT = "[rollout]\nprompts_per_step = 8\nsamples_per_prompt = 4\nmax_new_tokens = 16\n"
REWARD = '[[reward]]\ntype = "exact_match"\n'
DRPO = '[objective]\ntype = "drpo"\ndelta = 0.2\n'

SMALLEST = HEAD + DATA + REWARD
"""A spec with no more than it needs, all of it built in."""

BUILT_IN = f"""\
{HEAD}{DATA}[[data]]
type = "jsonl"
path = "rows.jsonl"
fields = {{ prompt = "question", answer = "target" }}
[[data]]
type = "reasoning_gym"
task = "chain_sum"
options = {{ min_terms = 2, max_terms = 3 }}
[[data]]
type = "huggingface"
path = "some-org/some-rows"
[rollout]
engine = "transformers"
stop = ["\\n", "Q:"]
{REWARD}[[reward]]
type = "math_verify"
weight = 0
[[reward]]
type = "regex"
pattern = '^\\d+$'
[advantage]
type = "group_norm"
[objective]
type = "dppo"
divergence = "kl"
"""


def plugin_folder(folder: Path) -> Path:
    """Fills a folder with the plugin files that `GOOD` names."""
    (folder / "sources.py").write_text(PLUGINS)
    (folder / "rewards.py").write_text(REWARDS)
    return folder


def write(folder: Path, text: str = GOOD) -> Path:
    """Writes a spec into a folder."""
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    """The messages that a bad spec gets, without the folder in front."""
    path = write(folder, text)
    with pytest.raises(SpecError) as caught:
        load(path, overrides)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [line.removeprefix(f"{folder}/") for line in map(str, caught.value.problems)]


def warnings(folder: Path, text: str, *overrides: str) -> list[str]:
    """The warnings that a good spec gets, without the folder in front."""
    found = load(write(folder, text), overrides).warnings
    return [line.removeprefix(f"{folder}/") for line in map(str, found)]


def problem(folder: Path, text: str, *overrides: str) -> str:
    """The one message that a spec with one mistake gets."""
    (line,) = problems(folder, text, *overrides)
    return line
