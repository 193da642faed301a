"""math_verify on what makes computer algebra run for ever, and on what it would hide."""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards import math_verify
from drpo_cli.rewards._time import limited
from drpo_cli.rewards.grading.grader import Graded, Grader
from drpo_cli.types import Group, Prompt, Rollout

# To compare with anything; the limit on CPU time ends each of them.
ENDLESS = {
    "tower": "9^{9^{9^{9}}}",
    "factorial": "(10^{9})!",
    "product": r"\prod_{k=1}^{10^8} k",
}
# One greatest common divisor of numbers of 8 million bits: minutes in C, where no alarm is heard.
DEAF = r"\frac{3^{5000000}}{2^{8000000}+1}"


def boxed(expression: str) -> str:
    return f"So it is \\boxed{{{expression}}}."


def scored(completion: str, answer: str | None, **options: Any) -> float:
    return math_verify.reward(math_verify.Config(**options))(completion, answer)


def graded(texts: list[str], answer: str = "7", **options: Any) -> Graded:
    rollouts = tuple(Rollout((1,), (-0.1,), text, False) for text in texts)
    group = Group(Prompt("own/3", "3+4=", (), answer, {}), rollouts)
    config = math_verify.Config(**options)
    with Grader([Selected("rewards", "math_verify", config)]) as grader:
        return grader.score([group])


@pytest.mark.parametrize("answer", [r"\frac{1}{2}", "$\\frac{1}{2}$", r"\boxed{1/2}", "0.5"])
def test_reads_references_of_any_form(answer: str) -> None:
    assert scored("It is $1/2$.", answer) == 1.0
    assert scored("It is $1/3$.", answer) == 0.0


def test_names_a_reference_it_cannot_parse() -> None:
    with pytest.raises(UserError, match="cannot parse the reference answer ''"):
        scored("1", "")


@pytest.mark.parametrize("expression", ENDLESS.values(), ids=ENDLESS)
def test_what_takes_too_long_is_wrong_and_counted(expression: str) -> None:
    reward = math_verify.reward(math_verify.Config(timeout_seconds=1))
    assert reward(boxed(expression), "7") == 0.0
    assert reward.counts == {"timed_out": 1}
    assert scored(boxed("7"), "7", timeout_seconds=60) == 1.0


class Deaf:
    """Computes while it is deleted, where Python ignores what is raised."""

    def __del__(self) -> None:
        compute(2.0)


def compute(seconds: float) -> None:
    began = time.process_time()
    while time.process_time() < began + seconds:
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("place", ["parser.extract_target_from_pred", "grader.sympy_expr_eq"])
def test_an_alarm_that_python_ignores_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """SymPy's weak references call back while objects are deleted: CI ran one call for 34 s."""

    def endless(*_: object, **__: object) -> None:
        Deaf()
        compute(10.0)

    reward = math_verify.reward(math_verify.Config(timeout_seconds=1))
    assert reward(boxed("x"), "7") == 0.0  # the reference is read once
    reward.counts.clear()
    monkeypatch.setattr(f"math_verify.{place}", endless)
    assert reward(boxed("x+1"), "7") == 0.0
    assert reward.counts == {"timed_out": 1}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_limit_comes_again_wherever_it_is_ignored(elsewhere: bool) -> None:
    with pytest.raises(TimeoutError), limited(0.2):
        if elsewhere:
            with suppress(TimeoutError):
                compute(5.0)
        compute(5.0)


def test_what_holds_no_answer_is_counted() -> None:
    reward = math_verify.reward(math_verify.Config())
    assert [reward(text, "7") for text in ("no idea", boxed("8"))] == [0.0, 0.0]
    assert reward.counts == {"no_answer": 1}


def test_what_math_verify_fails_on_is_counted() -> None:
    reward = math_verify.reward(math_verify.Config())
    digits = "9" * (sys.get_int_max_str_digits() + 1)  # Python refuses to read that many
    assert reward(f"It is {digits}", "7") == 0.0
    assert reward.counts == {"errors": 1}


def test_its_log_is_left_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("math_verify")
    before = (logger.level, logger.propagate, list(logger.handlers))
    assert scored(boxed(ENDLESS["tower"]), "7", timeout_seconds=1) == 0.0
    assert (logger.level, logger.propagate, logger.handlers) == before
    assert not caplog.records


def test_refuses_other_threads() -> None:
    seen: list[object] = []

    def call() -> None:
        try:
            seen.append(scored("1", "1"))
        except RuntimeError as error:
            seen.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "main thread only" in str(seen[0])


def test_a_worker_ends_what_runs_for_ever_by_its_own_alarm() -> None:
    texts = [boxed(expression) for expression in (*list(ENDLESS.values())[:2], "3+4", "8")]
    result = graded(texts, timeout_seconds=5, timeout_s=60, workers=1)
    assert result.scores_P[0].by_reward["math_verify"] == (0.0, 0.0, 1.0, 0.0)
    usage = result.usage["math_verify"]
    assert usage.counts == {"timed_out": 2}
    assert not usage.failures and not result.quarantine


def test_a_worker_that_hears_no_alarm_is_killed_and_replaced() -> None:
    # math-verify's own time-out is out of reach, as it is within that one operation.
    texts = [boxed(expression) for expression in ("7", DEAF, "3+4", "8")]
    result = graded(texts, timeout_seconds=600, timeout_s=8, workers=1)
    (scores,) = result.scores_P
    assert scores.by_reward["math_verify"] == (1.0, None, 1.0, 0.0)
    assert scores.total_G == (1.0, 0.0, 1.0, 0.0) and not scores.skipped
    assert result.fatal is None
    assert result.usage["math_verify"].failures == {"timeout": 1}
    (record,) = result.quarantine
    assert (record["reason"], record["sample"]) == ("timeout", 1)
    assert record["completion"] == boxed(DEAF) and record["answer"] == "7"


def test_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match="pip install math-verify"):
        math_verify.reward(math_verify.Config())
