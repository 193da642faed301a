"""`--set`: where a value goes, what it becomes, and what is said when it has no place to go."""

from __future__ import annotations

from typing import Any

import pytest

from drpo_cli.spec.overrides import apply
from drpo_cli.spec.problems import SpecError


def document() -> dict[str, Any]:
    return {"run": {"name": "x"}, "data": [{"path": "a"}, {"path": "b"}]}


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
    assert apply(found, [f"run.key={text}"]) == {("run", "key"): f"run.key={text}"}
    assert found["run"] == {"name": "x", "key": value}


@pytest.mark.parametrize("key", ["data[1].path", "data.1.path"])
def test_a_list_entry(key: str) -> None:
    found = document()
    assert list(apply(found, [f"{key}=c"])) == [("data", 1, "path")]
    assert found["data"] == [{"path": "a"}, {"path": "c"}]


def test_a_section_that_is_not_there_yet() -> None:
    found = document()
    apply(found, ["eval.every=5", "a.b.c=1"])
    assert found["eval"] == {"every": 5} and found["a"] == {"b": {"c": 1}}


def test_the_last_of_two_counts() -> None:
    found = document()
    applied = apply(found, ["run.name=y", "run.seed=1", "run.name=z"])
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
def test_an_override_with_no_place_to_go(text: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        apply(document(), ["run.name=fine", text, "x"])
    assert len(caught.value.problems) == 2
    assert expected in caught.value.problems[0]
