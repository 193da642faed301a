"""docs/cli.md is what the verbs say today, and their help can be read and copied from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from drpo_cli.cli import app
from drpo_cli.cli._help import LIFE, examples_of, leaves, summary
from drpo_cli.cli.reference import reference
from support.command import drpo

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
GROUP: Any = typer.main.get_command(app)
VERBS = dict(leaves(GROUP))
by_verb = pytest.mark.parametrize("name", VERBS)


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make docs`"


@by_verb
def test_a_verb_is_documented(name: str) -> None:
    command = VERBS[name]
    assert any(name.partition(" ")[0] in verbs for verbs in LIFE.values()), "say where in LIFE"
    assert 0 < len(summary(command)) <= 66, "its line in `drpo --help` must not wrap"
    assert all(parameter.help for parameter in command.params)
    assert examples_of(command)


@by_verb
def test_its_examples_are_whole_lines_and_parse(name: str) -> None:
    shown = drpo(*name.split(), "--help", COLUMNS="80").stdout
    for line in examples_of(VERBS[name]):
        assert f"\n    {line}\n" in shown and shown.startswith(f"Usage: drpo {name} ")
        words = shlex.split(line)[1 + len(name.split()) :]
        VERBS[name].make_context(name, words)  # raises where an option is not one


def test_the_verbs_come_in_the_order_of_a_runs_life() -> None:
    shown = drpo("--help").stdout
    assert "..." not in shown.partition("Before a run:")[2]
    places = [shown.index(f"\n{text}") for text in ("Before a run:", "  init ", "  check ")]
    places += [shown.index(f"\n{text}") for text in ("During a run:", "  train ")]
    places += [shown.index(f"\n{text}") for text in ("After a run:", "  eval ", "  export ")]
    assert places == sorted(places)
    assert "Commands:" in drpo("reward", "--help").stdout
