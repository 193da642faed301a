"""Dimension suffixes: every letter is in the legend of `drpo_cli/types.py`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from drpo_cli import types

ROOT = Path(__file__).parents[2]
LEGEND = set(re.findall(r"^\| `_([A-Z])` \|", types.__doc__ or "", re.MULTILINE))
SUFFIX = re.compile(r"^[a-z][a-z0-9_]*_([A-Z]+)\d?$")
SOURCES = sorted((ROOT / "drpo_cli").rglob("*.py")) + sorted((ROOT / "examples").glob("*.py"))


def unknown(source: str) -> set[str]:
    """The names in a source whose suffix has a letter without a meaning."""
    names = {
        node.id if isinstance(node, ast.Name) else node.arg
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name | ast.arg)
    }
    names |= {n.attr for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)}
    suffixes = {name: match[1] for name in names if (match := SUFFIX.match(name))}
    return {name for name, suffix in suffixes.items() if not set(suffix) <= LEGEND}


def test_the_legend_gives_each_letter_one_meaning() -> None:
    rows = re.findall(r"^\| `_([A-Z])` \|", types.__doc__ or "", re.MULTILINE)
    assert len(rows) == len(set(rows)) > 10


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_suffixes_are_from_the_legend(path: Path) -> None:
    assert unknown(path.read_text()) == set()


def test_an_unknown_letter_is_found() -> None:
    assert unknown("logp_T = values_Q = x_TQ = adv_PG = start_B1 = None") == {"values_Q", "x_TQ"}
