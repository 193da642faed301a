"""Plugins of installed packages: found by a short name, here and in the rewards' processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards import exact_match
from drpo_cli.spec import load
from support.rewards import graded, group

CODE = '''
"""Politeness of a completion."""
from drpo_cli.settings import RewardSettings

class Config(RewardSettings):
    """Options."""
    word: str = "please"
    """What counts."""

EXAMPLES = [({"completion": "please"}, 1.0)]
IMPORTS = ("polite_words.extra",)

def reward(completion, config):
    import sys
    assert "polite_words.extra" in sys.modules  # the server had imported it before it forked
    return completion.count(config.word)

class Strict:
    """Strict politeness."""
    class Config(RewardSettings):
        """Options."""
        least: int = 2
        """How often."""
    def __init__(self, config): self.least = config.least
    def __call__(self, completion): return completion.count("please") >= self.least

def empty(*, config): ...
'''
POINTS = """[drpo.rewards]
polite = polite_words
strictly = polite_words:Strict
exact_match = polite_words
gone = polite_words_that_are_not_there
[drpo.objectives]
polite_loss = polite_words
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as pip leaves it, in a folder of its own that is on the path."""
    site = tmp_path / "site"
    package, info = site / "polite_words", site / "polite_words-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text(CODE)
    (package / "extra.py").write_text("")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: polite-words\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(site))
    for name in [name for name in sys.modules if name.startswith("polite_words")]:
        monkeypatch.delitem(sys.modules, name)
    return site


def test_an_entry_point_is_a_plugin_by_its_name(installed: Path) -> None:
    assert plugins.installed("rewards")["strictly"] == "polite_words:Strict"
    plugin = plugins.load("rewards", "polite")
    assert "Politeness of a completion." in plugin.doc
    assert plugin.examples and plugin.imports == ("polite_words.extra",) and not plugin.inline
    assert plugins.load("rewards", "strictly").Config().least == 2
    assert plugins.installed("objectives") == {"polite_loss": "polite_words"}


def test_it_scores_in_a_process_that_finds_it_too(installed: Path) -> None:
    config = plugins.load("rewards", "polite").Config(word="so")
    strict = plugins.load("rewards", "strictly").Config(least=1)
    selected = [Selected("rewards", "polite", config), Selected("rewards", "strictly", strict)]
    (scores,) = graded(selected, [group("so so", "please")]).scores_P
    assert scores.by_reward == {"polite": (2.0, 0.0), "strictly": (0.0, 1.0)}


def test_a_spec_names_it(installed: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        '[run]\nname = "x"\nsteps = 1\n[model]\npath = "a/b"\n[[data]]\ntype = "arithmetic"\n'
        '[rollout]\nmax_new_tokens = 4\n[[reward]]\ntype = "polite"\nword = "thanks"\n'
        '[objective]\ntype = "drpo"\ndelta = 0.2\n'
    )
    (reward,) = load(path).reward
    assert reward.type == "polite" and getattr(reward.config, "word", None) == "thanks"


def test_a_built_in_goes_before_an_installed_one(installed: Path) -> None:
    assert plugins.load("rewards", "exact_match").entry is exact_match.reward


def test_what_is_wrong_with_one_is_said(installed: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean 'polite'.*there are: .*strictly"):
        plugins.load("rewards", "polit")
    with pytest.raises(UserError, match="module 'polite_words_that_are_not_there' does not import"):
        plugins.load("rewards", "gone")
    with pytest.raises(UserError, match=r"has no 'reword'; name the function after a colon"):
        plugins.load("rewards", "polite_words.extra:reword")


def test_a_module_that_breaks_shows_its_own_lines(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import helper_of_mine\n")
    (installed / "helper_of_mine.py").write_text("def load():\n    return {}['key']\nload()\n")
    with pytest.raises(UserError) as caught:
        plugins.load("rewards", "./mine.py", tmp_path)
    said, helper = str(caught.value), installed / "helper_of_mine.py"
    trail = f"({tmp_path}/mine.py:1 in <module> → {helper}:3 in <module> → {helper}:2 in load)"
    assert said == f"reward './mine.py': KeyError: 'key' {trail}"


def test_options_of_every_kind_reach_the_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("""from __future__ import annotations
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from drpo_cli.settings import RewardSettings, Settings
class Colour(Enum):
    RED = "red"
@dataclass
class Pair:
    left: int
    right: int
class Inner(Settings):
    sizes: tuple[int, ...] = (1, 2)
    pair: Pair = Pair(3, 4)
class Config(RewardSettings):
    colour: Colour = Colour.RED
    path: Path = Path("/tmp")
    inner: Inner = Inner()
def fn(config):
    return config.colour is Colour.RED and config.path.is_dir() and config.inner.pair.left
""")
    type = plugins.absolute("./mine.py:fn", tmp_path)
    config = plugins.load("rewards", type).Config()
    found = graded([Selected("rewards", type, config)], [group("a")])
    assert found.fatal is None and found.scores_P[0].total_G == (3.0,)
