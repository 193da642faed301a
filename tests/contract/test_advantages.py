"""What every advantage must hold, built in or added later; runs each file's EXAMPLES."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.settings import AdvantageSettings

NAMES = plugins.available("advantages")
EXAMPLES = [
    (name, *example) for name in NAMES for example in plugins.load("advantages", name).EXAMPLES
]

advantage = pytest.mark.parametrize("name", NAMES)


@advantage
def test_it_says_what_it_computes_and_from_which_paper(name):
    doc = plugins.load("advantages", name).__doc__
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


@pytest.mark.parametrize(("name", "options", "scores_PG", "expected_PG"), EXAMPLES)
def test_example(name, options, scores_PG, expected_PG):
    module = plugins.load("advantages", name)
    found_PG = module.advantages(module.Config(**options), scores_PG)
    assert found_PG == [pytest.approx(row, abs=1e-5) for row in expected_PG]


@advantage
def test_it_keeps_the_shape_of_uneven_groups_and_returns_floats(name):
    module = plugins.load("advantages", name)
    smallest = [1.0, 0.0, 2.0][: module.MIN_GROUP]
    scores_PG = [smallest, (0, 1, 1, 0, 1), [0.25] * 8]
    found_PG = module.advantages(module.Config(), scores_PG)
    assert [len(row) for row in found_PG] == [len(row) for row in scores_PG]
    assert all(type(value) is float for row in found_PG for value in row)
    assert module.advantages(module.Config(), []) == []


def test_loading_them_does_not_import_torch():
    code = (
        "import sys\nfrom drpo_cli import plugins\n"
        "for name in plugins.available('advantages'):\n"
        "    module = plugins.load('advantages', name)\n"
        "    module.advantages(module.Config(), [[1.0, 0.0]])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
