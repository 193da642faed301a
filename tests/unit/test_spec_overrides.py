"""`--set`: which key it sets, to which value, and the messages about a wrong one."""

from __future__ import annotations

from typing import Any

import pytest

from drpo_cli.spec.overrides import apply_overrides
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Problem, Source


def document() -> dict[str, Any]:
    return {"run": {"name": "x"}, "data": [{"path": "a"}, {"path": "b"}]}


def texts(document: dict[str, Any], *overrides: str) -> dict[KeyPath, str]:
    """The overrides by the key that they set; none is wrong."""
    applied, problems = apply_overrides(document, overrides)
    assert not problems
    return {key: override.text for key, override in applied.items()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-6", 1e-6),
        ("true", True),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ("{a = 1}", {"a": 1}),
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("", ""),
        ("a=b", "a=b"),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_a_value_is_toml_or_else_text(text: str, value: object) -> None:
    found = document()
    assert texts(found, f"run.key={text}") == {("run", "key"): f"run.key={text}"}
    assert found["run"] == {"name": "x", "key": value}


@pytest.mark.parametrize("key", ["data[1].path", "data.1.path"])
def test_a_list_entry(key: str) -> None:
    found = document()
    assert list(texts(found, f"{key}=c")) == [("data", 1, "path")]
    assert found["data"] == [{"path": "a"}, {"path": "c"}]


def test_a_section_that_does_not_exist_yet() -> None:
    found = document()
    apply_overrides(found, ["eval.every=5", "a.b.c=1"])
    assert found["eval"] == {"every": 5} and found["a"] == {"b": {"c": 1}}


def test_the_last_of_two_counts() -> None:
    found = document()
    applied = texts(found, "run.name=y", "run.seed=1", "run.name=z")
    assert found["run"]["name"] == "z"
    assert applied == {("run", "seed"): "run.seed=1", ("run", "name"): "run.name=z"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run.name", "--set run.name: is not an override; write section.key=value"),
        ("=3", "--set =3: is not an override"),
        ("run..name=3", "--set run..name=3: is not an override"),
        ("run name=3", "--set run name=3: is not an override"),
        ("data[2].path=c", "data[2]: there is no such entry; the spec has 2"),
        ("data.path=c", "data: is a list; say which entry, as in data[0].path"),
        ("run.name.x=c", "run.name: is a single value; nothing can be set below it"),
    ],
)
def test_an_override_without_a_key_to_set(text: str, expected: str) -> None:
    applied, problems = apply_overrides(document(), ["run.name=fine", text, "x"])
    assert (len(applied), len(problems)) == (1, 2)
    assert expected in str(problems[0])


@pytest.mark.parametrize(
    ("text", "key", "on_key", "marked"),
    [
        ("run.seed = -1 ", ("run", "seed"), False, "-1"),
        ("run.sedd=1", ("run", "sedd"), True, "run.sedd"),
        ("run={seed = 1, x.y=[2, 3]}", ("run", "x", "y", 1), False, "3"),
        ("run={seed = 1, x.y=[2, 3]}", ("run", "x", "y"), True, "y"),
        ("run={seed = 1}", ("run", "name"), False, "{seed = 1}"),
        ("run=[" + "[" * 99, ("run",), False, "[" * 100),
    ],
)
def test_what_is_wrong_with_an_override_is_marked(
    text: str, key: KeyPath, on_key: bool, marked: str
) -> None:
    applied, _ = apply_overrides(document(), [text])
    (found,) = Source("run.toml", overrides=applied).diagnostics([Problem(key, "", on_key=on_key)])
    assert found.source == f"--set {text}" and found.line is None
    assert found.source[(found.column or 0) - 1 : (found.end_column or 0) - 1] == marked
