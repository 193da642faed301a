"""An environment from its source text, a player of its episodes, and prompts for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from drpo_cli import plugins
from drpo_cli.plugins import Selected, absolute
from drpo_cli.rollout.engine.ends import find_ends
from drpo_cli.settings import ModelSettings, RolloutSettings
from drpo_cli.step.play import Player
from drpo_cli.types import Prompt
from support.environments import HEAD

CONTEXT = 96

ECHO = """
import time
class Env:
    def start(self, row, rng):
        self.turns = 0
        return f"{row.prompt} {rng.randint(0, 9)}"
    def step(self, action: str) -> Step:
        self.turns += 1
        time.sleep(row_delay(self.turns))
        return Step(f"seen {self.turns}", reward=self.turns / 10, done=self.turns == 3)
def row_delay(turn):
    return 0.0
"""


@contextmanager
def player_of(folder: Path, model: ModelSettings, source: str, **options: Any) -> Iterator[Player]:
    """A player of one environment, from its source text."""
    (folder / "environments.py").write_text(HEAD + source)
    type = absolute("./environments.py:Env", folder)
    defaults = {"workers": 4, "name": "Env"}
    config = plugins.load("environments", type).Config.model_validate(defaults | options)
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    ends = find_ends(RolloutSettings(), model, tokenizer)
    with Player([Selected("environments", type, config)], tokenizer, ends.ids, CONTEXT) as player:
        yield player


def prompts_of(model: ModelSettings, *texts: str) -> list[Prompt]:
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    return [
        Prompt(
            f"own/{i}",
            text,
            tuple(tokenizer(text).input_ids),
            None,
            {},
            messages=({"role": "user", "content": text},),
        )
        for i, text in enumerate(texts)
    ]
