"""Broken specs: each gets its messages in the right places, and is accepted once fixed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from drpo_cli.plan import rules
from drpo_cli.spec import Spec, SpecError, excerpt, load
from drpo_cli.spec.problems import Diagnostic
from drpo_cli.tools.check import parts_can_be_called
from support.corpus import FOLDER, Case, Mark, cases, marks

CASES = list(cases())


def checked(path: Path, overrides: Sequence[str] = ()) -> Spec:
    return load(path, overrides, (*rules(1), parts_can_be_called))


def place(one: Diagnostic) -> Mark:
    return one.line, one.column or 0, one.end_column if one.line == one.end_line else None


def test_there_are_enough() -> None:
    assert len(CASES) >= 60 and len({case.title for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_a_broken_spec(tmp_path: Path, case: Case) -> None:
    path, overrides, marked = case.write(tmp_path)
    with pytest.raises(SpecError) as caught:
        checked(path, overrides)
    found = [*caught.value.problems, *caught.value.warnings]
    lines = [str(one).removeprefix(f"{one.where}: ") for one in found]
    lines = [
        f"warning: {line}" if one.severity == "warning" else line
        for line, one in zip(lines, found, strict=True)
    ]
    assert len(lines) == len(case.messages), lines
    for line, said in zip(lines, case.messages, strict=True):
        assert said in line
    assert [place(one) for one in found if one.source is not None] == marked
    checked(case.write(tmp_path, fixed=True)[0])


def test_twenty_mistakes_are_all_reported_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (FOLDER / "twenty.toml").read_text(encoding="utf-8")
    path = tmp_path / "run.toml"
    path.write_text(text.replace("«", "").replace("»", ""), encoding="utf-8")
    expected = [line.partition("  #> ")[2] for line in text.splitlines() if "  #> " in line]
    with pytest.raises(SpecError) as caught:
        checked(path)
    assert len(caught.value.problems) == len(expected) == 20
    for one, said in zip(caught.value.problems, expected, strict=True):
        assert str(one).removeprefix(f"{one.where}: ").startswith(said)
    assert [place(one) for one in caught.value.problems] == marks(text)


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from("[]{}\"'=,.#\n\\ x0\t\r🙂"), st.booleans()),
        min_size=1,
        max_size=4,
    )
)
def test_a_spec_with_random_typos_loads_or_gets_messages_with_places(
    tmp_path: Path, typed: list[tuple[float, str, bool]]
) -> None:
    text = (FOLDER / "base.toml").read_text(encoding="utf-8")
    for where, character, instead in typed:
        at = int(where * len(text))
        text = text[:at] + character + text[at + instead :]
    path, _, _ = Case("the base").write(tmp_path, fixed=True)
    path.write_bytes(text.encode())
    try:
        checked(path)
    except SpecError as error:
        lines = text.replace("\r\n", "\n").split("\n")
        for one in error.problems:
            assert one.source is None or one.source == lines[(one.line or 0) - 1]
            assert one.source is None or 1 <= (one.column or 0) <= len(one.source) + 1
        excerpt.show(Console(file=io.StringIO(), width=40), error)
