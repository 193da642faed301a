"""Every key that tomli finds has a position: the place where it is written."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import tomli
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from drpo_cli.spec.positions import KeyPath, Lines, scan

HAND_WRITTEN = {
    "empty": "",
    "comment only": "# [not.a.table]\n",
    "no newline at the end": "a = 1",
    "windows lines": "[a]\r\nb = 1\r\n\r\n[c]\r\nd = 2\r\n",
    "tables": "[a]\nb = 1\n[a.c]\nd = 2\n[ e . 'f g' ]\nh = 3\n",
    "child before parent": "[a.b]\nc = 1\n[a]\nd = 2\n",
    "arrays of tables": "[[a]]\nb=1\n[[a.c]]\nd=1\n[[a.c]]\n[a.e]\nf=1\n[[a]]\n[[a.c]]\nd=2\n",
    "dotted keys": "a . b.c = 1\na.b.d = 2\n[e]\nf.g = 3\n",
    "quoted keys": '"a b" = 1\n\'c.d\' = 2\n"\\u00e9\\"" = 3\nf."g.h" = 4\n"" = 5\n1.2 = 6\n',
    "inline tables": "a = { b = 1, c.d = 2, e = { f = [ {g = 1}, {} ] } } # {\n[h]\ni = {}\n",
    "arrays": "a = [ 1, [2, 3], [], [\n  4, # ], [\n  5,\n] , {b = '}'}]\nc = 1\n",
    "strings": 'a = "x # y = [\\"z\\\\"\nb = \'C:\\\'\nc = [",", \']\', "}"]\nd = ""\n',
    "multi-line strings": '''a = """
[not]
a = "table" \\""" ""\\
"""
b = \'\'\'
c = \\\'\'\'
d = """"quoted""""" # five quotes
e = \'\'\'\'\'two\'\'\'\'\'
f = """"""
g = [""",""", \'\'\'
]\'\'\']
''',
    "dates and numbers": "a = 1979-05-27 07:32:00\nb = [1e-6, -inf, 0xF, 07:32:00]\nc=true#d=1\n",
}


def paths(value: Any, at: KeyPath = ()) -> set[KeyPath]:
    found = {at} if at else set()
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            found |= paths(child, (*at, key))
    return found


@pytest.mark.parametrize("text", HAND_WRITTEN.values(), ids=HAND_WRITTEN)
def test_scan_finds_the_paths_of_hand_written_documents(text: str) -> None:
    text = text.replace("\r\n", "\n")
    assert set(scan(text)) == paths(tomli.loads(text))


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.text("\"'\\#[]{},=\n\r\t ", max_size=8),
    st.datetimes(min_value=datetime.datetime(1000, 1, 1)),
    st.dates(min_value=datetime.date(1000, 1, 1)),
    st.times(),
)
KEYS = st.text("ab.-_\"'\\ é\n#[]{}=1", max_size=4)
DOCUMENTS = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=12,
    ),
    max_size=4,
)


@given(document=DOCUMENTS, multiline=st.booleans())
def test_scan_finds_the_paths_of_any_document(document: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(document, multiline_strings=multiline)
    assert set(scan(text)) == paths(tomli.loads(text))


def test_positions_are_where_the_keys_are_written() -> None:
    text = "[run]\n  name = 'x'\n\n[[data]]\na.b = [1,\n  2]\n[[data]]\nc = { d = 1 }\n[x.y]\n[x]\n"
    lines = Lines(text)
    assert {key: lines.position(place.key.start) for key, place in scan(text).items()} == {
        ("run",): (1, 1),
        ("run", "name"): (2, 3),
        ("data",): (4, 1),
        ("data", 0): (4, 1),
        ("data", 0, "a"): (5, 1),
        ("data", 0, "a", "b"): (5, 3),
        ("data", 0, "a", "b", 0): (5, 8),
        ("data", 0, "a", "b", 1): (6, 3),
        ("data", 1): (7, 1),
        ("data", 1, "c"): (8, 1),
        ("data", 1, "c", "d"): (8, 7),
        ("x",): (10, 1),
        ("x", "y"): (9, 1),
    }


def test_values_have_places_too() -> None:
    text = 'a . b = [ 1e3 , "x]" ] # c\nd = { e = 07:32:00 , f = {} }\n[g] # h\ni = """\nj"""\n'
    written = {key: text[slice(*place.value)] for key, place in scan(text).items()}
    assert written == {
        ("a",): "a",
        ("a", "b"): '[ 1e3 , "x]" ]',
        ("a", "b", 0): "1e3",
        ("a", "b", 1): '"x]"',
        ("d",): "{ e = 07:32:00 , f = {} }",
        ("d", "e"): "07:32:00",
        ("d", "f"): "{}",
        ("g",): "[g]",
        ("g", "i"): '"""\nj"""',
    }
