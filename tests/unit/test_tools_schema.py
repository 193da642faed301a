"""Typed functions as tools: what the model is shown of them, and how its arguments are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from drpo_cli.environments.toolkit.answers import ToolError
from drpo_cli.environments.toolkit.docstrings import read
from drpo_cli.environments.toolkit.schema import describe, inline
from drpo_cli.environments.toolkit.toolbox import Toolbox
from drpo_cli.errors import UserError
from support.dialogues import FAMILIES, make_tokenizer


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: int = 0


class Shape(BaseModel):
    """A shape."""

    title: str
    corners: list[Point] = []


class Node(BaseModel):
    children: list[Node] = []


class Plain:
    pass


def draw(
    text: str,
    copy: int = 5,
    colour: Colour = Colour.RED,
    style: Literal["thin", "bold"] = "thin",
    shape: Shape | None = None,
    sizes: dict[str, float] | None = None,
    either: int | str = 3,
    place: Annotated[Point, Field(description="where")] = Point(1, 2),  # noqa: B008
) -> str:
    """Draws something.

    It does so at once.

    Args:
        text (str): what to draw,
            in words
        copy: how many

    Returns:
        text: nothing of interest
    """
    return text


def test_a_function_becomes_a_schema_that_templates_can_print() -> None:
    point = {
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"type": "integer", "default": 0}},
        "required": ["x"],
    }
    described = describe(draw, "draw")
    assert json.loads(json.dumps(described.schema)) == {
        "type": "function",
        "function": {
            "name": "draw",
            "description": "Draws something.",
            "parameters": {
                "type": "object",
                "properties": {
                    "text": {"type": "string", "description": "what to draw, in words"},
                    "copy": {"type": "integer", "description": "how many", "default": 5},
                    "colour": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                    "style": {"type": "string", "enum": ["thin", "bold"], "default": "thin"},
                    "shape": {
                        "type": "object",
                        "description": "A shape.",
                        "properties": {
                            "title": {"type": "string"},
                            "corners": {"type": "array", "items": point, "default": []},
                        },
                        "required": ["title"],
                        "nullable": True,
                    },
                    "sizes": {
                        "type": "object",
                        "additionalProperties": {"type": "number"},
                        "nullable": True,
                    },
                    "either": {"anyOf": [{"type": "integer"}, {"type": "string"}], "default": 3},
                    "place": point | {"description": "where", "default": {"x": 1, "y": 2}},
                },
                "required": ["text"],
            },
        },
    }


@pytest.mark.parametrize("family", [name for name, one in FAMILIES.items() if one.tools])
def test_chat_templates_print_it(family: str) -> None:
    tools = [describe(draw, "draw").schema, *Toolbox(["calculator", "submit"], Path()).schemas]
    text = make_tokenizer(family).apply_chat_template(
        [{"role": "user", "content": "Go."}],
        tools=tools,
        add_generation_prompt=True,
        tokenize=False,
        strftime_now=date(2026, 1, 1).strftime,
    )
    for words in ("draw", "what to draw, in words", "bold", "corners", "calculator", "submit"):
        assert words in str(text)


def test_arguments_are_converted() -> None:
    read_arguments = describe(draw, "draw").read
    given = {
        "text": 3,
        "copy": "7",
        "colour": "blue",
        "shape": {"title": "t", "corners": [{"x": 1}]},
    }
    assert read_arguments(given) == {
        "text": "3",
        "copy": 7,
        "colour": Colour.BLUE,
        "shape": Shape(title="t", corners=[Point(1)]),
    }
    assert read_arguments({"text": "a", "shape": None}) == {"text": "a", "shape": None}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "argument 'text' is missing. draw takes: text (string), copy (integer, optional)"),
        ({"text": "a", "copi": 1}, "there is no argument 'copi'; did you mean 'copy'?"),
        ({"text": "a", "copy": "many"}, "argument 'copy': input should be a valid integer"),
        ({"text": "a", "colour": "green"}, "input should be 'red' or 'blue', not 'green'"),
        (
            {"text": "a", "shape": {"title": "t", "corners": [{}]}},
            "'shape.corners[0].x' is missing",
        ),
        ({"text": ["a" * 999]}, "not ['" + "a" * 198 + "…. draw takes"),
        ({"text": None}, "argument 'text': input should be a valid string, not None"),
    ],
)
def test_wrong_arguments_are_explained_to_the_model(arguments: Any, words: str) -> None:
    with pytest.raises(ToolError) as raised:
        describe(draw, "draw").read(arguments)
    assert words in str(raised.value)


def no_type(x) -> None:  # type: ignore[no-untyped-def]
    """Does it."""


def no_docstring(x: int) -> None:
    pass


def several(*x: int) -> None:
    """Does it."""


def named(**x: int) -> None:
    """Does it."""


def positional(x: int, /) -> None:
    """Does it."""


def endless(x: Node) -> None:
    """Does it."""


def of_a_class(x: list[Plain]) -> None:
    """Does it."""


def of_a_function(x: Callable[[int], int]) -> None:
    """Does it."""


def undefined(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Does it."""


def odd_default(x: int = Plain()) -> None:  # type: ignore[assignment]
    """Does it."""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_type, "parameter 'x' has no type; write it, as in: def search(query: str"),
        (no_docstring, "has no docstring"),
        (several, "what `*x` takes; name each parameter"),
        (named, "what `**x` takes; name each parameter"),
        (positional, "remove the `/`"),
        (endless, "parameter 'x': a schema contains itself"),
        (of_a_class, f"has type list[{__name__}.Plain], which has no JSON Schema; use text"),
        (of_a_function, "parameter 'x' has type collections.abc.Callable[[int], int], which has"),
        (undefined, "name 'Nowhere' is not defined; use types that are defined, or imported"),
        (odd_default, "the default of 'x' has no JSON"),
    ],
)
def test_what_no_model_could_call_is_refused(function: Any, words: str) -> None:
    with pytest.raises(UserError) as raised:
        describe(function, "tool")
    message, line = str(raised.value), function.__code__.co_firstlineno
    assert f"test_tools_schema.py:{line}: tool 'tool'" in message
    assert words in message


def test_a_name_that_formats_cannot_write_is_refused() -> None:
    with pytest.raises(UserError, match="a model cannot call this name"):
        describe(draw, "draw it")


@pytest.mark.parametrize(
    "text",
    [
        "Finds it.\n\nArgs:\n    query (str): what to\n        find\n    limit: how many\n"
        "\nReturns:\n    x: y",
        "Finds it.\n\nParameters\n----------\nquery : str\n    what to\n    find\nlimit\n"
        "    how many\n\nReturns\n-------\nx : int\n    y",
        "Finds it.\n\n:param str query: what to\n    find\n:param limit: how many\n:returns: y",
        "Finds it.\n:param query: what to find\n:param limit: how many",
    ],
)
def test_docstrings_of_three_forms_are_read(text: str) -> None:
    assert read(text) == ("Finds it.", {"query": "what to find", "limit": "how many"})


def test_a_docstring_of_sections_alone_says_nothing() -> None:
    assert read("\nArgs:\n    x: y") == ("", {"x": "y"})
    assert read(None) == ("", {})


def test_a_reference_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="refers to 'https://elsewhere'"):
        inline({"properties": {"x": {"$ref": "https://elsewhere"}}})


def test_names_of_properties_are_not_keywords() -> None:
    schema = {"type": "object", "properties": {"title": {"type": "string", "title": "Title"}}}
    assert inline(schema) == {"type": "object", "properties": {"title": {"type": "string"}}}
    both = inline({"type": ["string", "null"], "const": "a"})
    assert both == {"type": "string", "enum": ["a"], "nullable": True}
