"""Toolboxes: from the texts of a spec to the results that a model reads."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.environments.toolkit.toolbox import LONGEST_RESULT, Result, Toolbox, Tools, shorten
from drpo_cli.errors import UserError
from drpo_cli.types import ToolCall

TOOLS = '''
from drpo_cli.environments.toolkit import Submit, ToolError
from drpo_cli.errors import UserError
from drpo_cli.settings import Settings

closed = []


def search(query: str, limit: int = 2) -> list[str]:
    """Searches."""
    return [query] * limit


async def later(x: float) -> dict[str, float]:
    """Waits."""
    return {"x": x, "nan": float("nan")}


def fails(how: str) -> object:
    """Fails."""
    if how == "raise":
        return {}["key"]
    if how == "tool":
        raise ToolError("try another one")
    if how == "user":
        raise UserError("no key", "export KEY")
    if how == "exit":
        raise SystemExit(3)
    return object()


def long(n: int) -> str:
    """Is long."""
    return "a" * n + "\\ud800"


def finish(answer: str) -> Submit:
    """Ends."""
    return Submit(answer.upper())


class Count:
    """Counts the calls of an episode."""

    class Config(Settings):
        first: int = 0
        names: str = "x"

    def __init__(self, config: Config) -> None:
        self.n = config.first

    def __call__(self, by: int = 1) -> int:
        """Counts.

        Args:
            by: how many at once
        """
        self.n += by
        return self.n

    def close(self) -> None:
        closed.append(self.n)


class Simple:
    """Says hello."""

    def __call__(self) -> str:
        return "hello"


class Sub(Count):
    """Counts too."""


class Slow(Simple):
    async def close(self) -> None:
        pass


class NotCallable:
    """Is not a tool."""


value = 3
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tools.py").write_text(TOOLS)
    return tmp_path


def call(tools: Tools, name: str, **arguments: Any) -> Result:
    return asyncio.run(tools.call(ToolCall(name, arguments)))


def one(spec: str, folder: Path = Path()) -> Tools:
    return Toolbox([spec], folder).open()


def test_results_are_text_or_json(folder: Path) -> None:
    box = Toolbox(["./tools.py:search", "./tools.py:later"], folder)
    assert [schema["function"]["name"] for schema in box.schemas] == ["search", "later"]
    tools = box.open()
    assert call(tools, "search", query="a") == Result('["a","a"]')
    assert call(tools, "later", x="1.5") == Result('{"x":1.5,"nan":NaN}')
    assert tools.counts == {"tool_calls": 2}


def test_problems_are_texts_for_the_model_and_counted(folder: Path) -> None:
    tools = Toolbox(["./tools.py:fails", "./tools.py:search"], folder).open()
    raised = call(tools, "fails", how="raise")
    assert raised.text == "fails failed: KeyError: 'key'"
    assert raised.error == f"KeyError: 'key' ({folder / 'tools.py'}:22 in fails)"
    assert call(tools, "fails", how="tool").text == "try another one"
    assert "it returned object, which is not text or JSON" in call(tools, "fails", how="").text
    assert "argument 'how' is missing" in call(tools, "fails").text
    unknown = call(tools, "serch", query="a")
    assert unknown.failed
    assert unknown.text == (
        "There is no tool 'serch'. Did you mean 'search'? The tools are: fails, search."
    )
    assert not call(tools, "search", query="a").failed
    assert tools.counts == {
        "tool_calls": 6,
        "tool_errors": 5,
        "tool_errors/fails": 4,
        "tool_errors/unknown": 1,
    }


@pytest.mark.parametrize(("how", "kind"), [("user", UserError), ("exit", SystemExit)])
def test_what_is_not_the_models_mistake_is_raised(
    folder: Path, how: str, kind: type[BaseException]
) -> None:
    with pytest.raises(kind):
        call(one("./tools.py:fails", folder), "fails", how=how)


def test_an_answer_is_submitted_by_any_tool(folder: Path) -> None:
    tools = Toolbox(["submit", "./tools.py:finish"], folder).open()
    assert call(tools, "submit", answer=42).submitted == "42"
    assert call(tools, "finish", answer="yes").submitted == "YES"


def test_a_class_has_one_instance_per_episode(folder: Path) -> None:
    box = Toolbox(["./tools.py:Count: first=10", "./tools.py:Simple"], folder)
    function = box.schemas[0]["function"]
    assert function["description"] == "Counts the calls of an episode."
    assert function["parameters"]["properties"]["by"]["description"] == "how many at once"
    (inherited,) = Toolbox(["./tools.py:Sub"], folder).schemas
    assert inherited["function"]["description"] == "Counts too."
    first, second = box.open(), box.open()
    assert call(first, "Count").text == "11"
    assert call(first, "Count", by=5).text == "16"
    assert call(second, "Count").text == "11"
    assert call(second, "Simple").text == "hello"
    first.close()
    again = call(second, "Count").text
    assert again == "12"


def test_long_results_lose_their_middle(folder: Path) -> None:
    text = call(one("./tools.py:long", folder), "long", n=LONGEST_RESULT + 10).text
    assert text.startswith("a" * (LONGEST_RESULT // 2) + "\n[… 11 characters left out …]\na")
    assert text.encode() and text.endswith("a?")
    assert len(text) < LONGEST_RESULT + 100
    assert shorten("a" * LONGEST_RESULT) == "a" * LONGEST_RESULT


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        (["calculater"], "there is no tool 'calculater'; did you mean 'calculator'? there are: "),
        (
            ["./tools.py"],
            "tool './tools.py' has no name; write it after a colon: './tools.py:name'",
        ),
        (["./tools.py:serch"], "has no 'serch'; did you mean 'search'?"),
        (["./absent.py:search"], "there is no file"),
        (["./tools.py:value"], "is not a function but 3"),
        (["./tools.py:Slow"], "tools.py:77: tool './tools.py:Slow': `close` is async; write `def"),
        (["./tools.py:NotCallable"], "is a class without `__call__`"),
        (["absent_package.tools:search"], "module 'absent_package.tools' does not import"),
        (["./tools.py:search", "./tools.py:search"], "both have the name 'search'; remove one"),
        (["calculator: digits=3"], "is a function, which has no options"),
        (["./tools.py:Simple: a=1"], "Simple has no `Config`"),
        (
            ["./tools.py:Count: second=1"],
            "second: Extra inputs are not permitted; its options: fir",
        ),
        (["./tools.py:Count: first=a"], "first: Input should be a valid integer"),
        (["./tools.py:Count: first"], "options are not key=value; its options: first, names"),
        (["./tools.py:Count: names='a"], "No closing quotation"),
    ],
)
def test_what_cannot_be_a_tool_is_refused(folder: Path, tools: list[str], words: str) -> None:
    with pytest.raises(UserError) as raised:
        Toolbox(tools, folder)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(1 + 2) * 3 / 4", "2.25"),
        ("84 / 2", "42"),
        ("0.1 + 0.2", "0.3"),
        ("2 ** 100", str(2**100)),
        ("5 × 3 − 2", "13"),
        ("-3 ** 2", "-9"),
        ("sqrt(2) * pi", f"{math.sqrt(2) * math.pi:.12g}"),
        ("max(3, round(2.567, 2)) // 2 % 7", "1"),
    ],
)
def test_calculator_computes(expression: str, value: str) -> None:
    assert call(one("calculator"), "calculator", expression=expression) == Result(value)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("1 / 0", "division by zero"),
        ("2 ^ 3", "write ** for powers"),
        ("1,000 + 1", "write numbers without commas"),
        ("9 ** 9 ** 9", "a value that is too large"),
        ("e ** 1000", "too large"),
        ("1e300 * 1e300", "too large"),
        ("(-8) ** 0.5", "not a real number"),
        ("sqrt(-1)", "math domain error"),
        ("max(1)", "not iterable"),
        ("x + 1", "an unknown name 'x'"),
        ("factorial(3)", "the function 'factorial'"),
        ("__import__('os')", "the function '__import__'"),
        ("'a' * 3", "something else than numbers"),
        ("().__class__", "an expression with Attribute"),
        ("two plus two", "is not an expression"),
        ("(" * 300, "is not an expression"),
        ("1+" * 3000 + "1", "an expression of 6001 characters"),
    ],
)
def test_calculator_says_what_it_does_not_compute(expression: str, words: str) -> None:
    result = call(one("calculator"), "calculator", expression=expression)
    assert result.failed and words in result.text
