"""What a class of an environment must have: what is wrong is said before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from drpo_cli.environments.sessions.contract import Environment, prepare_all
from drpo_cli.errors import UserError
from support.environments import HEAD, Own

START = "    def start(self, row, rng): ...\n"
STEP = "    def step(self, action): ...\n"
LINE = HEAD.count("\n") + 2
"""Line of the first method."""


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


def prepared(own: Own, body: str) -> Environment:
    return own(f"class Env:\n{body}")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (START, "FILE:{class}: Env has no `step`; write `def step(self, action)`"),
        (STEP, "FILE:{class}: Env has no `start`; write `def start(self, row, rng)`"),
        (START + "    step = 3", "FILE:{class}: `step` is not a function; write"),
        (
            "    def start(self, row): ...\n" + STEP,
            "FILE:{first}: `start` takes row, but it gets row and rng; write `def start(self, row,",
        ),
        (
            "    def start(self, row, rng, *, level): ...\n" + STEP,
            "FILE:{first}: `start` takes row, rng, level, but it gets row and rng",
        ),
        (
            "    def step(self): ...\n" + START,
            "FILE:{first}: `step` takes nothing, but it gets action; write `def step(self,",
        ),
        (
            "    def close(self, why): ...\n" + START + STEP,
            "FILE:{first}: `close` takes why, but it gets nothing",
        ),
        (
            "    def start(self, row: str, rng): ...\n" + STEP,
            "FILE:{first}: 'row' is annotated str, but `start` gets Row",
        ),
        (
            "    def start(self, row, rng: int): ...\n" + STEP,
            "FILE:{first}: 'rng' is annotated int, but `start` gets Random",
        ),
        (
            "    def start(self, row, rng) -> int: ...\n" + STEP,
            "FILE:{first}: `start` returns int; write `-> str` or `-> list[Message]`",
        ),
        (
            "    def step(self, action: int): ...\n" + START,
            "FILE:{first}: 'action' is annotated int; write `str`, or `Action`",
        ),
        (
            "    def step(self, action) -> str: ...\n" + START,
            "FILE:{first}: `step` returns str; write `-> Step`",
        ),
        (
            "    async def step(self, action) -> tuple[str, float]: ...\n" + START,
            "FILE:{first}: `step` returns tuple[str, float]; write `-> Step`",
        ),
        (
            "    def step(self, action): yield 1\n" + START,
            "FILE:{first}: `step` has a `yield`; return one value per call instead",
        ),
        (
            "    def __init__(self, config, level): ...\n" + START + STEP,
            "FILE:{first}: its __init__ asks for config, level; write `def __init__(self, config)`",
        ),
        (
            "    @staticmethod\n    def tools(): ...\n    def step(self, action: Action): ...\n"
            + START,
            "FILE:{first}: `tools` does not take the options; write `def tools(config)`",
        ),
        (
            "    @classmethod\n    def tools(cls, config): ...\n" + START + STEP,
            "FILE:{first}: has `tools`, but `step` would not get their calls; write `def step(self",
        ),
    ],
)
def test_what_nobody_can_call_is_refused(own: Own, body: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        prepared(own, body)
    says = says.replace("{class}", str(LINE - 1)).replace("{first}", str(LINE))
    message = re.sub(r"/\S+/e0\.py", "FILE", str(refused.value))
    assert message.startswith("environment 'Env': " + says), message


def test_all_problems_are_said_at_once(own: Own) -> None:
    with pytest.raises(UserError) as refused:
        prepared(own, "    def start(self): ...\n    def step(self, action: int): ...")
    assert len(str(refused.value).splitlines()) == 2


def test_a_function_is_no_environment(own: Own) -> None:
    with pytest.raises(UserError, match=r"is not a class .*e0.py:2.; name a class that has `start"):
        own("def Env(): ...")


@pytest.mark.parametrize(
    ("annotation", "whole"),
    [
        ("", False),
        (": str", False),
        (": Action", True),
        (": 'Action'", True),
        (": Action | None", True),
        (": 'drpo.OnlyForCheckers'", False),
        (": 'types.Action'", True),
        (": object", False),
    ],
)
def test_step_gets_what_it_annotates(own: Own, annotation: str, whole: bool) -> None:
    body = f"    def step(self, action{annotation}) -> Step: ...\n{START}"
    assert prepared(own, body).whole_action == whole


@pytest.mark.parametrize(
    "body",
    [
        "    async def start(self, row: Row, rng) -> list[Message]: ...\n" + STEP,
        "    def start(self, *whatever): ...\n    async def step(self, action): ...\n",
        START + STEP + "    async def close(self): ...\n",
    ],
)
def test_one_async_method_makes_it_async(own: Own, body: str) -> None:
    assert prepared(own, body).is_async and not prepared(own, START + STEP).is_async


def test_tools_of_the_environment_and_of_the_spec(own: Own) -> None:
    body = f"""
    @staticmethod
    def tools(config): ...
    def step(self, action: Action): ...
{START}"""
    assert prepared(own, body).own_tools
    assert not prepared(own, body.replace("@staticmethod", "")).own_tools
    with pytest.raises(UserError, match=r"e2.py:\d+: brings its own tools, so the spec cannot add"):
        own(f"class Env:\n{body}", tools=["calculator"])


def test_a_config_is_given_to_whoever_asks(own: Own) -> None:
    body = f"""
    class Config(EnvironmentSettings):
        limit: int = 100
    def __init__(self, config): self.limit = config.limit
{START}{STEP}"""
    head = HEAD + "from drpo_cli.environments import EnvironmentSettings\n"
    environment = own(f"class Env:\n{body}", head=head, limit=7)
    assert environment.takes_config and environment.make().limit == 7
    assert not prepared(own, START + STEP).takes_config


def test_names_are_unique(own: Own) -> None:
    one, two = prepared(own, START + STEP), prepared(own, START + STEP)
    with pytest.raises(UserError, match="2 environments are called 'Env'; give each a `name`"):
        prepare_all([one.selected, two.selected])
    assert [env.name for env in prepare_all([one.selected])] == ["Env"]
