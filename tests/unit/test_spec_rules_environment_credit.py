"""Credit of turns in a spec: where it has no effect, and what it cannot go with."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli.plan import describe, make_plan
from drpo_cli.spec import load
from support.specs import SMALLEST, problem, warnings

ENVIRONMENT = '[[environment]]\ntype = "./games.py:Guess"\n'
GAMES = """
from drpo_cli.environments import Step
class Guess:
    def start(self, row, rng): return "Guess."
    def step(self, action: str): return Step("No.", 0.0)
"""
SEEING = "def advantages(config, scores_PG, turns_PG): ...\n"
BY_TURN = '[advantage]\ntype = "group_mean"\ncredit = "turn"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "games.py").write_text(GAMES)
    (tmp_path / "seeing.py").write_text(SEEING)
    return tmp_path


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (BY_TURN, "advantage.credit: is 'turn', and without an [[environment]] a response is one"),
        (
            '[advantage]\ntype = "gae"\nlevel = "turn"\n[critic]\n',
            "advantage.level: is 'turn', and without an [[environment]] a response is one turn",
        ),
        (
            ENVIRONMENT + '[advantage]\ntype = "gae"\ncredit = "turn"\n[critic]\n',
            "advantage.credit: has no effect with advantage 'gae', which takes the reward of every",
        ),
        (
            ENVIRONMENT + '[advantage]\ntype = "./seeing.py"\ncredit = "turn"\n',
            "seeing.py', which sees the turns and credits them itself; remove it",
        ),
        (
            ENVIRONMENT + "[advantage]\nturn_discount = 0.5\n",
            "advantage.turn_discount: has no effect with advantage.credit 'episode'; remove it, or "
            "set advantage.credit to 'turn'",
        ),
        (
            ENVIRONMENT + '[advantage]\ntype = "gae"\nturn_discount = 0.5\n[critic]\n',
            "remove it, or set advantage.discount, which is per turn with level 'turn'",
        ),
        (
            ENVIRONMENT + BY_TURN + "turn_discount = 0\n",
            "advantage.turn_discount: is 0; must be above 0",
        ),
        (
            ENVIRONMENT + BY_TURN + "turn_discount = 1.5\n",
            "advantage.turn_discount: is 1.5; must be at most 1",
        ),
    ],
)
def test_credit_that_cannot_be_given_is_refused(folder: Path, lines: str, said: str) -> None:
    assert said in problem(folder, SMALLEST + lines)


@pytest.mark.parametrize(
    "lines",
    [
        "",
        BY_TURN,
        BY_TURN + "turn_discount = 0.5\n",
        BY_TURN + '[objective]\ntype = "gspo"\n',
        '[advantage]\ntype = "gae"\nlevel = "turn"\ndiscount = 0.9\n[critic]\n',
        '[advantage]\ntype = "./seeing.py"\nturn_discount = 0.9\n',
    ],
)
def test_credit_of_turns_in_an_environment_is_sound(folder: Path, lines: str) -> None:
    assert warnings(folder, SMALLEST + ENVIRONMENT + lines) == []


def test_groups_of_equal_totals_are_not_dropped_unseen(folder: Path) -> None:
    lines = "[rollout]\ndynamic_sampling_rounds = 2\n"
    (line,) = warnings(folder, SMALLEST + ENVIRONMENT + BY_TURN + lines)
    assert "rollout.dynamic_sampling_rounds: drops groups whose totals are all equal" in line


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ("", "group_mean, drpo (delta 0.2)"),
        (ENVIRONMENT + BY_TURN, "group_mean (credit turn), drpo (delta 0.2)"),
    ],
)
def test_check_shows_credit_where_it_was_asked_for(folder: Path, lines: str, shown: str) -> None:
    path = folder / "run.toml"
    path.write_text(SMALLEST + lines)
    assert dict(describe(make_plan(load(path), 1)))["advantage, objective"] == shown
