"""How a problem is shown: its line, with what is wrong underlined."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from drpo_cli.spec import SpecError
from drpo_cli.spec.excerpt import excerpt, show
from drpo_cli.spec.problems import Diagnostic


def wrong(source: str, column: int, end: int, end_line: int = 7) -> Diagnostic:
    return Diagnostic("error", "run.toml", "a.b", "is x; y", 7, column, end_line, end, source)


def shown(error: SpecError, width: int, terminal: bool = False, **options: object) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=terminal,
        markup=False,
        highlight=False,
        **options,  # type: ignore[arg-type]
    )
    show(console, error)
    return out.getvalue()


@pytest.mark.parametrize(
    ("source", "column", "end", "expected"),
    [
        ("steps = 0", 9, 10, "steps = 0\n        ^"),
        ("\tsteps = 0", 10, 11, "    steps = 0\n            ^"),
        ("名 = 漢字 # x", 5, 7, "名 = 漢字 # x\n     ^^^^"),
        ("e\u0301 = 1", 6, 7, "e\u0301 = 1\n    ^"),
        ("a = \x1b[31m", 5, 10, "a = �[31m\n    ^^^^^"),
        ("steps", 6, 7, "steps\n     ^"),
        ("", 1, 2, "\n^"),
        ("a" * 30 + " = " + "b" * 90, 34, 124, f"…{'a' * 12} = {'b' * 23}…\n{' ' * 16}{'^' * 23}"),
        ("a = 1 " + "#" * 90, 5, 6, "a = 1 " + "#" * 33 + "…\n    ^"),
        ("#" * 90 + " 1", 92, 93, "…" + "#" * 33 + " 1\n" + " " * 35 + "^"),
    ],
)
def test_the_mark_is_under_what_is_wrong(source: str, column: int, end: int, expected: str) -> None:
    text, before, marked = excerpt(wrong(source, column, end), 40)
    assert f"{text}\n{' ' * before}{'^' * marked}" == expected


def test_only_the_first_line_of_a_long_value_is_marked() -> None:
    assert excerpt(wrong('a = """x', 5, 4, end_line=9), 40) == ('a = """x', 4, 4)


@given(
    st.text(st.characters(exclude_characters="\n"), max_size=60),
    st.integers(1, 70),
    st.integers(0, 70),
    st.integers(8, 50),
)
def test_any_line_fits(source: str, column: int, length: int, room: int) -> None:
    text, before, marked = excerpt(wrong(source, column, column + length), room)
    assert cell_len(text) <= room and "\t" not in text
    assert 0 <= before <= room and marked >= 1 and before + marked <= room + 1


def test_everything_is_shown_and_counted() -> None:
    doubt = Diagnostic("warning", "run.toml", "c", "is 2: odd", 2, 1, 2, 4, "c = 2")
    override = Diagnostic(
        "error",
        "run.toml",
        "d",
        "is 3",
        column=9,
        end_column=10,
        source="--set d=3",
        origin="--set",
    )
    error = SpecError([wrong("b = 0", 5, 6), override], [doubt], note="an old folder")
    assert shown(error, 80) == (
        "warning: run.toml:2:1: c: is 2: odd\n   2 │ c = 2\n     │ ^^^\n"
        "run.toml:7:5: a.b: is x; y\n   7 │ b = 0\n     │     ^\n"
        "--set d=3: d: is 3\n     │ --set d=3\n     │         ^\n"
        "2 errors, 1 warning in run.toml\nan old folder\n"
    )
    assert str(error) == "run.toml:7:5: a.b: is x; y\n--set d=3: d: is 3\nan old folder"


def test_nothing_moves_the_cursor() -> None:
    one = Diagnostic("error", "run.toml", "a", "is \x1b[2J; y\nand", 1, 1, 1, 2, "\x1b]0;x\x07")
    assert shown(SpecError([one]), 80, terminal=True, no_color=True, color_system=None) == (
        "run.toml:1:1: a: is �[2J; y\nand\n   1 │ �]0;x�\n     │ ^\n1 error in run.toml\n"
    )


def test_twenty_columns_are_enough_and_only_terminals_have_colour() -> None:
    error = SpecError([wrong("learning_rate = 'a rather long text'", 17, 37)])
    narrow = shown(error, 20, terminal=True, color_system=None)
    assert max(map(cell_len, narrow.splitlines()[:-1])) <= 20
    assert "7│…te = 'a rather l…\n │      ^^^^^^^^^^^\n" in narrow.replace("\x1b[0m", "")
    assert "\x1b[" in shown(error, 80, terminal=True, color_system="standard")
    assert "\x1b[1;3" not in shown(error, 80, terminal=True, no_color=True)
    assert "\x1b" not in shown(error, 80)
    assert len(shown(error, 20).splitlines()) == 4  # a line each for those that read lines
