"""Environments, one file each: episodes of several turns, whose tokens are not all the policy's.

A file has a class, named in `type = "./environments.py:Guess"`, or `Environment` in the built-in
files:

    class Config(EnvironmentSettings): …          options, if it has any; also inside the class
    def __init__(self, config) -> None            if it wants them; once per episode
    def start(self, row, rng) -> str | list[Message]
    def step(self, action) -> Step                `action: str` gets the text, `action: Action` all
    def close(self) -> None                       if it has something to close
    @staticmethod
    def tools(config) -> list[dict]               if it brings tools: their schemas, as templates
                                                  take them; `step` gets the calls, in an `Action`

`start` and `step` may be async. One instance lives for one episode, in a process that can be
killed: of its own, or with an `async` method shared with other episodes.
"""

from drpo_cli.settings import EnvironmentSettings as EnvironmentSettings
from drpo_cli.types import Action as Action
from drpo_cli.types import Message as Message
from drpo_cli.types import Row as Row
from drpo_cli.types import Step as Step
from drpo_cli.types import ToolCall as ToolCall
