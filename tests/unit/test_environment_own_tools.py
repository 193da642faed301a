"""Tools that the class of an environment brings."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli.errors import UserError
from drpo_cli.types import Action, ToolCall
from support.environments import Own, opened, result, row, texts

TOOLS = """
class Env:
    @staticmethod
    def tools(config):
        {body}
    def start(self, row, rng):
        return "go"
    def step(self, action: Action) -> Step:
        return Step(f"{{action.calls[0].name}} {{action.calls[0].arguments['n']}}")
"""


def test_its_calls_are_given_to_the_step(tmp_path: Path) -> None:
    schema = '{"type": "function", "function": {"name": "double", "parameters": {}}}'
    with opened(Own(tmp_path)(TOOLS.format(body=f"return [{schema}]"))) as pool:
        assert [one["function"]["name"] for one in pool.tools(0)] == ["double"]
        session = pool.open(0, row(), 1)
        result(session.first)
        called = result(session.step(Action("", (ToolCall("double", {"n": 2}),))))
        assert texts(called) == ["double 2"]
        session.close()


@pytest.mark.parametrize(
    ("body", "options", "message"),
    [
        ("return [{}]", {"tools": ["calculator"]}, "it has tools of its own; remove `tools`"),
        ("return 1 / 0", {}, "'Env': its `tools`: ZeroDivisionError.*e0.py"),
    ],
)
def test_wrong_ones_are_refused(
    tmp_path: Path, body: str, options: dict[str, object], message: str
) -> None:
    environment = Own(tmp_path)(TOOLS.format(body=body), **options)
    with opened(environment) as pool, pytest.raises(UserError, match=message):
        pool.tools(0)
