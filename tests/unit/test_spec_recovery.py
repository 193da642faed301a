"""What is read of a document that is not TOML, and what tomli says of the same text."""

from __future__ import annotations

from typing import Any

import pytest
import tomli
from hypothesis import example, given
from hypothesis import strategies as st

from drpo_cli.spec.positions import scan
from drpo_cli.spec.recovery import MOST, recover

LINES = r"""
[run] ; [[data]] ; [data] ; [data.x] ; [[data.x]] ; [a.b] ; [a] ; [run ; [[run] ; [] ; [x] ; [x.y]
a = 1 ; a.b = 2 ; a.b.c = 3 ; b = "x" ; c = [1, 2] ; c = [ ; 1, ; 2] ; ] ; } ; run.x = 1 ; "a" = 1
d = { e = 1, f.g = [{}] } ; d = { ; e = 1, ; d.e = 1 ; g = \"\"\" ; text ; \"\"\" ; h = 'x ; h ; h =
= 1 ; i = 1 # [x ; # [x ; i = 01 ; x.y = 1 ; i = 'é' ; j = 1979-05-27 07:32:00 ; [ 'q' . "r" ]
k = [[1], [2, ; \ ; [eval] x = 1 ; data] ; [modle
"""
LINES = LINES.replace('\\"', '"').replace("\n", " ; ").split(" ; ")[1:-1]


@given(st.lists(st.sampled_from(LINES), max_size=9))
@example(["a.b = 1", "[a.b]"])
@example(["[a.b]", "[a]", "b.c = 1", "[a.b]"])
@example(["[[data.x]]", "[data]"])
@example(["c = [", "[a]"])
@example(["a = '" + "x." * 40 + "'"])
def test_there_are_mistakes_where_tomli_sees_one(lines: list[str]) -> None:
    text = "\n".join(lines)
    found = recover(text)
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError:
        assert found.mistakes
        assert all(0 <= m.at.start < m.at.end <= len(text) + 1 for m in found.mistakes)
        assert [m.at for m in found.mistakes] == sorted(m.at for m in found.mistakes)
    else:
        assert (found.document, found.places) == (document, scan(text))
        assert not found.mistakes and not found.lost.keys and not found.lost.tables


@pytest.mark.parametrize(
    ("text", "document", "lost"),
    [
        ("a = [\n1,\nb = 2\n[c]\nd = 3", {"b": 2, "c": {"d": 3}}, {("a",)}),
        ("a = [1,\n2\n[c]\nd = 3", {"c": {"d": 3}}, {("a",)}),
        ("a = {\nb = 1,\n[c]\nd = 3", {"c": {"d": 3}}, {("a",)}),
        ("a = { b = 1\nc = 2 }\nd = 3", {"d": 3}, {("a",)}),
        ('a = ["x, "y"]\nb = 2', {"b": 2}, {("a",)}),
        ('a = ["x,\n"y"]\nb = 2', {"b": 2}, {("a",)}),
        ('a = "x [\nb = 2', {"b": 2}, {("a",)}),
        ('[x]\na = """b\nc = 1\n[d]\ne = 2', {"x": {}, "d": {"e": 2}}, {("x", "a")}),
        ("[run\na = 1\n[[modl]\nb = 2", {"run": {"a": 1}, "model": {"b": 2}}, set()),
        ("[data\na = 1\n[eval.data]]", {"data": [{"a": 1}], "eval": {"data": [{}]}}, set()),
        ("[x]\na = 1\n[y]\n[x]\na = 2\nb = 3", {"x": {"a": 1, "b": 3}, "y": {}}, set()),
        ("[[data]]\na = 1\n[data]\na = 2", {"data": [{"a": 1}, {"a": 2}]}, set()),
        ("[data]\na = 1\n[data]\na = 2", {"data": {"a": 1}}, set()),
        ("x = 1\n[x]\na = 1\n[y]", {"x": 1, "y": {}}, {("x",)}),
        ("a: 1\nb 2\nc", {}, {("a",), ("b",), ("c",)}),
    ],
)  # fmt: skip
def test_a_mistake_costs_one_statement(text: str, document: Any, lost: Any) -> None:
    found = recover(text)
    assert found.document == document
    assert found.lost.keys == lost and found.mistakes


def test_what_may_be_any_key_covers_its_table() -> None:
    found = recover("[x]\n= 1\n[y]\nz = 1")
    assert found.lost.tables == {("x",)}
    assert found.lost.covers(("x", "a")) and not found.lost.covers(("y", "a"))
    found = recover("[%]\na = 1\n[y]\nz = 1")
    assert found.document == {"y": {"z": 1}}
    assert found.lost.covers(("x",)) and not found.lost.covers(("y", "a"))


@pytest.mark.parametrize(
    "text",
    [
        "a = [" * 200_000,
        "a = {\n" * 160_000,
        "a = {b = 1,\n" * 80_000,
        "a = [\n" + "1,\n" * 300_000,
        'a = """\n' * 120_000,
        "a = '''x\n" * 110_000,
        ".".join("a" * 400_000) + " = 1",
        "[" + ".".join("a" * 400_000) + "]",
        "a" * 999_000,
        "[a]\n" * 250_000,
        "a = 1\n" * 160_000,
        '"' * 999_000,
        "x = " + "[" * 900_000,
        "a = 1 2\n" * 100_000,
        "a = { " + "b." * 400_000 + "c = 1 }",
    ],
    ids=range(15),
)
def test_a_megabyte_of_mistakes_ends(text: str) -> None:
    found = recover(text)
    assert 1 <= len(found.mistakes) <= MOST + 1
