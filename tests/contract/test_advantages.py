"""What every advantage must hold, built in or added later; runs each file's EXAMPLES."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.settings import AdvantageSettings

NAMES = plugins.available("advantages")
TOKEN_LEVEL = [name for name in NAMES if plugins.load("advantages", name).token_level]
RESPONSE_LEVEL = [name for name in NAMES if name not in TOKEN_LEVEL]
PAGE = Path(__file__).parents[2] / "docs" / "advantages.md"
EXAMPLES = [
    (name, example) for name in NAMES for example in plugins.load("advantages", name).examples
]

advantage = pytest.mark.parametrize("name", NAMES)
response_level = pytest.mark.parametrize("name", RESPONSE_LEVEL)
token_level = pytest.mark.parametrize("name", TOKEN_LEVEL)


@advantage
def test_it_says_what_it_computes_and_from_which_paper(name):
    doc = plugins.load("advantages", name).doc
    first, blank, *rest = doc.splitlines()
    assert first.endswith(".") and not blank
    assert "arXiv" in doc and any(line.startswith("    ") for line in rest)


@advantage
def test_its_options_are_documented_closed_and_have_defaults(name):
    config = plugins.load("advantages", name).Config
    assert issubclass(config, AdvantageSettings) and config.__doc__
    assert all(field.description for field in config.model_fields.values())
    config()
    with pytest.raises(ValidationError, match="no_such_option"):
        config(no_such_option=1)


@advantage
def test_it_has_a_section_in_the_docs_with_every_option(name):
    section = PAGE.read_text().partition(f"\n## `{name}`")[2].partition("\n## ")[0]
    assert section
    options = plugins.load("advantages", name).Config.model_fields
    assert [option for option in options if f"| `{option}` |" not in section] == []


def near(values):
    """Like `pytest.approx`, for lists in lists."""
    nested = values and isinstance(values[0], list)
    return [near(inner) for inner in values] if nested else pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_example(name, example):
    plugin = plugins.load("advantages", name)
    options, *given, expected = example
    assert plugin.entry(plugin.Config(**options), *given) == near(expected)


@advantage
def test_it_has_examples(name):
    assert plugins.load("advantages", name).examples


@response_level
def test_it_keeps_the_shape_of_uneven_groups_and_returns_floats(name):
    plugin = plugins.load("advantages", name)
    smallest = [1.0, 0.0, 2.0][: plugin.min_group]
    scores_PG = [smallest, (0, 1, 1, 0, 1), [0.25] * 8]
    found_PG = plugin.entry(plugin.Config(), scores_PG)
    assert [len(row) for row in found_PG] == [len(row) for row in scores_PG]
    assert all(type(value) is float for row in found_PG for value in row)
    assert plugin.entry(plugin.Config(), []) == []


@response_level
def test_equal_scores_give_exactly_zero(name):
    plugin = plugins.load("advantages", name)
    for groups, size in ((1, plugin.min_group), (1, 8), (4, 7)):
        found_PG = plugin.entry(plugin.Config(), [[0.1] * size] * groups)
        assert found_PG == [[0.0] * size] * groups


@token_level
def test_it_gives_every_token_a_float_in_the_shape_of_the_values(name):
    plugin = plugins.load("advantages", name)
    values_PG = [[[0.5, 0.25, 1.0], [0.0]], [[0.1] * 7, []]]
    found_PG = plugin.entry(plugin.Config(), [[1.0, 0], [0.0, 0.5]], values_PG)
    shape = [[len(row) for row in group] for group in values_PG]
    assert [[len(row) for row in group] for group in found_PG] == shape
    assert all(type(value) is float for group in found_PG for row in group for value in row)
    assert plugin.entry(plugin.Config(), [], []) == []


def test_loading_them_does_not_import_torch():
    code = (
        "import sys\nfrom drpo_cli import plugins\n"
        "for name in plugins.available('advantages'):\n"
        "    plugin = plugins.load('advantages', name)\n"
        "    values = [[[[0.5], [0.5]]]] if plugin.token_level else []\n"
        "    plugin.entry(plugin.Config(), [[1.0, 0.0]], *values)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
