"""The explanation of a syntax error: there is one for every text that tomli refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli
from hypothesis import example, given
from hypothesis import strategies as st

from drpo_cli.spec import SpecError, load
from drpo_cli.spec.syntax import explain

TEXT = r"""
[run] ; [[data]] ; [data] ; [data.x] ; [[data.x]] ; [a.b] ; [a] ; [run ; [[run] ; [] ; [x] ; [x.y]
a = 1 ; a.b = 2 ; a.b.c = 3 ; b = "x" ; c = [1, 2] ; c = [ ; 1, ; 2] ; ] ; } ; run.x = 1 ; "a" = 1
d = { e = 1, f.g = [{}] } ; d = { ; e = 1, ; d.e = 1 ; g = \"\"\" ; text ; \"\"\" ; h = 'x ; h ; h =
= 1 ; i = 1 # [x ; # [x ; i = 01 ; x.y = 1 ; i = 'é' ; j = 1979-05-27 07:32:00 ; [ 'q' . "r" ]
k = [[1], [2, ; \ ; [eval] x = 1 ; data] ; [modle ; a = { b = 1, b = 2 } ; "\q" = 1 ; "\u12" = 1
"""
LINES = TEXT.replace('\\"', '"').replace("\n", " ; ").split(" ; ")[1:-1]


@given(st.lists(st.sampled_from(LINES), max_size=9))
@example(["a.b = 1", "[a.b]"])
@example(["[a.b]", "[a]", "b.c = 1", "[a.b]"])
@example(["[[data.x]]", "[data]"])
@example(["c = [", "[a]"])
@example(["c = 'x", "", ""])
@example(["g = 'a'''", "[x]"])
def test_every_error_of_tomli_has_a_place_and_a_text(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        found = explain(text, error)
        assert found.at is not None
        assert 0 <= found.at.start < found.at.end <= len(text) + 1
        assert "; " in found.what
        stop = text.find("\n", error.pos)
        assert found.at.start <= (stop if stop >= 0 else len(text))


@pytest.mark.parametrize(
    ("text", "line", "column", "expected"),
    [
        ("a = [\n1,\nb = 2\n[c]\nd = 3", 1, 5, "nothing closes this [; add a ]"),
        ("a = { b = 1\n[c]\nd = 3", 1, 5, "nothing closes this {; add a }"),
        ('a = [\n  "x",\n  "y\n]\n', 3, 3, 'the text has no closing quote; add " at its end'),
        ('[x]\na = """b\nc = 1\n[d]\n', 2, 5, 'the text has no closing quote; add """ at its end'),
        ("a = [\n  1,\n  2 3\n]", 3, 5, "no comma separates this from the entry before it"),
        ("a = [\n  1,\n  yes\n]", 3, 3, "a switch is true or false; write true"),
        ("x = 1\n[x]\n", 2, 1, "line 1 gives it another meaning"),
        ("x.y = 1\n[x.y.z]\n", 2, 1, "line 1 gives it another meaning"),
        ("[a]\nb.c = 1\nb.c.d = 2\n", 3, 1, "the first is in line 2"),
        ("[a]\n[[b]]\n[b.c]\n[b.c]\n", 4, 1, "the first is in line 3; join the two"),
        ("a = 1\r\nb = 2 3\r\n", 2, 7, "the value ends before this"),
        ("a = 1\rb = 2\n", 1, 6, "the character U+000D (a control character) must not stand here"),
        ("a = 1\r\r\nb = 2\n", 1, 6, "the character U+000D (a control character) must not stand"),
        ("a = [" * 100_000, 1, 6, "this is not a value"),
        ("a = [\n" + "1,\n" * 300_000, 1, 5, "nothing closes this [; add a ]"),
        ("a = '''x\n" * 100_001, 2, 8, "the value ends before this"),
        ("[a]\n" * 200_000, 2, 1, "is here a second time: the first is in line 1"),
        ("a = 1 2\n" * 100_000, 1, 7, "the value ends before this"),
        ('"' * 999_000, 1, 3, "no = follows the key"),
    ],
    ids=range(19),
)
def test_the_place_of_a_mistake(
    tmp_path: Path, text: str, line: int, column: int, expected: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(text.encode())
    with pytest.raises(SpecError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert expected in problem.message
    assert (problem.line, problem.column) == (line, column)


@pytest.mark.parametrize("text", ["a = { b = 1, }", "a = { b = 1,\n  c = 2 }"])
def test_what_older_versions_of_toml_refuse_in_an_inline_table(text: str) -> None:
    at = text.index(",") + 1 + (text[text.index(",") + 1] == " ")
    error = tomli.TOMLDecodeError("Invalid initial character for a key part", text, at)
    assert "a { } table is on one line, without a comma at its end" in explain(text, error).what


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 900_000,
        ".".join("a" * 400_000) + " = 1",
        "[" + ".".join("a" * 30) + "]",
        "a = { " + "b." * 30 + "c = 1 }",
    ],
    ids=range(4),
)
def test_a_text_that_nests_too_deeply(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match="nests too deeply; a spec needs three levels"):
        load(path)
