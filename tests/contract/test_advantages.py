"""What every advantage must satisfy, built in or added later; runs each file's EXAMPLES."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.settings import AdvantageSettings
from drpo_cli.settings.meanings import meanings

NAMES = plugins.available("advantages")
TOKEN_LEVEL = [n for n in NAMES if plugins.load("advantages", n).token_level]
RESPONSE_LEVEL = [name for name in NAMES if name not in TOKEN_LEVEL]
PAGE = Path(__file__).parents[2] / "docs" / "advantages.md"
EXAMPLES: list[tuple[str, tuple[Any, ...]]] = [
    (name, example) for name in NAMES for example in plugins.load("advantages", name).examples
]

advantage = pytest.mark.parametrize("name", NAMES)
response_level = pytest.mark.parametrize("name", RESPONSE_LEVEL)
token_level = pytest.mark.parametrize("name", TOKEN_LEVEL)


@advantage
def test_it_says_what_it_computes_and_from_which_paper(name: str) -> None:
    doc = plugins.load("advantages", name).doc
    first, blank, *rest = doc.splitlines()
    assert first.endswith(".") and not blank
    assert "arXiv" in doc and any(line.startswith("    ") for line in rest)


@advantage
def test_its_options_are_documented_closed_and_have_defaults(name: str) -> None:
    config = plugins.load("advantages", name).Config
    assert issubclass(config, AdvantageSettings) and config.__doc__
    assert meanings(config).keys() == config.model_fields.keys()
    config()
    with pytest.raises(ValidationError, match="no_such_option"):
        config.model_validate({"no_such_option": 1})


@advantage
def test_it_has_a_section_in_the_docs_with_every_option(name: str) -> None:
    section = PAGE.read_text().partition(f"\n## `{name}`")[2].partition("\n## ")[0]
    assert section
    options = plugins.load("advantages", name).Config.model_fields.keys()
    own = options - AdvantageSettings.model_fields.keys()
    assert [option for option in own if f"| `{option}` |" not in section] == []


def test_the_docs_have_the_options_of_all_advantages() -> None:
    section = PAGE.read_text().partition("\n## Episodes of several turns")[2].partition("\n## ")[0]
    assert AdvantageSettings.model_fields
    for option in AdvantageSettings.model_fields:
        assert f"| `{option}` |" in section


def approximate(values: list[Any]) -> Any:
    """Like `pytest.approx`, for nested lists."""
    nested = values and isinstance(values[0], list)
    return [approximate(inner) for inner in values] if nested else pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_example(name: str, example: tuple[Any, ...]) -> None:
    plugin = plugins.load("advantages", name)
    options, *given, expected = example
    assert plugin.entry(plugin.Config(**options), *given) == approximate(expected)


@advantage
def test_it_has_examples(name: str) -> None:
    assert plugins.load("advantages", name).examples


@response_level
def test_it_keeps_the_shape_of_uneven_groups_and_returns_floats(name: str) -> None:
    plugin = plugins.load("advantages", name)
    smallest = [1.0, 0.0, 2.0][: plugin.min_group]
    scores_PG = [smallest, (0, 1, 1, 0, 1), [0.25] * 8]
    found_PG = plugin.entry(plugin.Config(), scores_PG)
    assert [len(row) for row in found_PG] == [len(row) for row in scores_PG]
    assert all(type(value) is float for row in found_PG for value in row)
    assert plugin.entry(plugin.Config(), []) == []


@response_level
@given(score=st.floats(-1e6, 1e6), size=st.integers(0, 64), groups=st.integers(1, 4))
def test_equal_scores_give_exactly_zero(name: str, score: float, size: int, groups: int) -> None:
    plugin = plugins.load("advantages", name)
    size += plugin.min_group
    found_PG = plugin.entry(plugin.Config(), [[score] * size] * groups)
    assert found_PG == [[0.0] * size] * groups


@token_level
def test_it_gives_every_token_a_float_in_the_shape_of_the_values(name: str) -> None:
    plugin = plugins.load("advantages", name)
    values_PG = [[[0.5, 0.25, 1.0], [0.0]], [[0.1] * 7, []]]
    found_PG = plugin.entry(plugin.Config(), [[1.0, 0], [0.0, 0.5]], values_PG)
    shape = [[len(row) for row in group] for group in values_PG]
    assert [[len(row) for row in group] for group in found_PG] == shape
    assert all(type(value) is float for group in found_PG for row in group for value in row)
    assert plugin.entry(plugin.Config(), [], []) == []


def test_loading_them_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom drpo_cli import plugins\n"
        "for name in plugins.available('advantages'):\n"
        "    plugin = plugins.load('advantages', name)\n"
        "    values = [[[[0.5], [0.5]]]] if plugin.token_level else []\n"
        "    plugin.entry(plugin.Config(), [[1.0, 0.0]], *values)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
