"""The built-in rewards beyond their examples: options, limits and mistakes."""

import re
import sys
import threading

import pytest
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.rewards import exact_match, length, math_verify, reasoning_gym, regex


@pytest.mark.parametrize(
    "call",
    [
        lambda: exact_match.reward("4", None, exact_match.Config()),
        lambda: math_verify.reward("4", None, math_verify.Config()),
        lambda: regex.reward("4", None, regex.Config(pattern=".", group=0)),
    ],
)
def test_comparing_needs_an_answer(call) -> None:
    with pytest.raises(UserError, match="no answer to compare with"):
        call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "("}, "not a regular expression"),
        ({"pattern": "(a)", "group": 2}, "group = 2, but the pattern has 1 group"),
    ],
)
def test_regex_pattern_is_checked_by_the_config(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        regex.Config(**options)


def test_regex_group_that_takes_no_part_in_the_match() -> None:
    config = regex.Config(pattern=r"x|(\d)", group=1)
    assert regex.reward("4 x", "4", config) == 0.0


def test_length_limits_are_ordered() -> None:
    with pytest.raises(ValidationError, match="limit = 8 must be above soft_limit = 8"):
        length.Config(soft_limit=8, limit=8)


def test_length_falls_linearly() -> None:
    config = length.Config(soft_limit=100, limit=200)
    scores = [length.reward((0,) * n, config) for n in (0, 100, 125, 150, 200, 300)]
    assert scores == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


@pytest.mark.parametrize("answer", [r"\frac{1}{2}", "$\\frac{1}{2}$", r"\boxed{1/2}", "0.5"])
def test_math_verify_reads_references_of_any_form(answer: str) -> None:
    assert math_verify.reward("It is $1/2$.", answer, math_verify.Config()) == 1.0
    assert math_verify.reward("It is $1/3$.", answer, math_verify.Config()) == 0.0


def test_math_verify_names_a_reference_it_cannot_parse() -> None:
    with pytest.raises(UserError, match="cannot parse the reference answer ''"):
        math_verify.reward("1", "", math_verify.Config())


def test_math_verify_scores_what_takes_too_long_as_wrong() -> None:
    slow = "9^{9^{9^{9}}}"  # takes for ever to compare
    config = math_verify.Config(timeout_seconds=1)
    assert math_verify.reward(f"\\boxed{{{slow}}}", "7", config) == 0.0


def test_math_verify_refuses_other_threads() -> None:
    seen = []

    def call() -> None:
        try:
            seen.append(math_verify.reward("1", "1", math_verify.Config()))
        except RuntimeError as error:
            seen.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "main thread only" in seen[0]


def test_reasoning_gym_needs_its_own_source() -> None:
    with pytest.raises(UserError, match="not from the data source 'reasoning_gym'"):
        reasoning_gym.reward("4", {"level": 1}, reasoning_gym.Config())


def test_reasoning_gym_scores_with_the_rows_options() -> None:
    source = plugins.load("data", "reasoning_gym")
    options = {"min_num_decimal_places": 1, "max_num_decimal_places": 1}
    row = source.load(source.Config(task="decimal_arithmetic", size=1, options=options))[0]
    near = str(float(row.answer) + 0.01)
    assert reasoning_gym.reward(near, row.metadata, reasoning_gym.Config()) == 1.0
    default = {**row.metadata, "options": {}}
    assert reasoning_gym.reward(near, default, reasoning_gym.Config()) < 1.0


def test_reasoning_gym_does_not_hide_a_broken_row() -> None:
    broken = {"task": "chain_sum", "options": {}, "entry": {"question": "2 + 2 = ?"}}
    with pytest.raises(KeyError, match="answer"):
        reasoning_gym.reward("4", broken, reasoning_gym.Config())


@pytest.mark.parametrize(
    ("module", "call", "package"),
    [
        (
            "math_verify",
            lambda: math_verify.reward("1", "1", math_verify.Config()),
            "math-verify",
        ),
        (
            "reasoning_gym.utils",
            lambda: reasoning_gym.reward(
                "1", {"task": "a", "options": {}, "entry": {}}, reasoning_gym.Config()
            ),
            "reasoning-gym",
        ),
    ],
)
def test_missing_library_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, module: str, call, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=re.escape(f"pip install {package}")):
        call()
