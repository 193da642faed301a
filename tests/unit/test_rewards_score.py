"""What a reward may return, and every way it can fail: each has a kind and a helpful message."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from drpo_cli import plugins
from drpo_cli.calls import pool
from drpo_cli.plugins import Selected
from support.rewards import Own, graded, group, numbers_in

USER_ERROR = "from drpo_cli.errors import UserError\n"
SLEEP = "import time, asyncio, os, re, signal, subprocess, sys\n"


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


def failures(selected: Selected[Any], *texts: str) -> dict[str, tuple[str, str]]:
    """Kind and message of each failed call; the call of 'good' must not fail."""
    found = graded([selected], [group("good", *texts)], forgiving=True)
    (scores,) = found.scores_P
    assert scores.by_reward["fn"] == (1.0, *[None] * len(texts))
    assert scores.skipped == set(range(1, 1 + len(texts)))
    assert found.usage["fn"].failures.total() == found.usage["fn"].calls - 1 == len(texts)
    return {
        record["completion"]: (record["reason"], record["detail"]) for record in found.quarantine
    }


def failure(selected: Selected[Any]) -> tuple[str, str]:
    """The same of 'bad'."""
    return failures(selected, "bad")["bad"]


RETURNED = [
    ("'1.0'", "wrong_type", r"returned '1.0' \(str\); return a finite number"),
    ("None", "wrong_type", r"returned None \(NoneType\)"),
    ("[1.0]", "wrong_type", r"returned \[1.0\] \(list\)"),
    ("1j", "wrong_type", r"returned 1j \(complex\)"),
    ("numpy.ones(1)", "wrong_type", r"returned array\(\[1.\]\) \(ndarray\)"),
    ("numpy.str_('1')", "wrong_type", r"returned '1' \(str\)"),
    ("'x' * 10**6", "wrong_type", r"returned 'x{78}… \(str\)"),
    ("float('nan')", "not_finite", "returned nan; return a finite number"),
    ("float('inf')", "not_finite", "returned inf"),
    ("numpy.float32('-inf')", "not_finite", "returned -inf"),
    ("10 ** 400", "not_finite", r"returned inf; return a finite number, up to 1e\+15"),
    ("-1e16", "not_finite", r"returned -1e\+16"),
]


@pytest.mark.parametrize("prefix", ["", "async "])
def test_a_score_is_a_finite_number(own: Own, prefix: str) -> None:
    source = f"{prefix}def fn(completion): return 1.0 if completion == 'good' else eval(completion)"
    expressions = [expression for expression, _, _ in RETURNED]
    found = failures(own(source, head="import numpy\n"), *expressions)
    for expression, kind, said in RETURNED:
        assert found[expression][0] == kind, expression
        assert re.match(said, found[expression][1]), expression


OF_GROUPS = [
    ("[1.0]", "wrong_length", "returned 1 scores for 2 samples; return a list with one scor"),
    ("[1.0] * 3", "wrong_length", "returned 3 scores for 2 samples"),
    ("numpy.ones(3)", "wrong_length", "returned 3 scores for 2 samples"),
    ("[]", "wrong_length", "returned 0 scores"),
    ("type('L', (list,), {'__len__': lambda s: 2})([1.0])", "wrong_length", "returned 1 scores"),
    ("1.0", "wrong_type", "returned 1.0 for 2 samples"),
    ("numpy.array(1.0)", "wrong_type", r"returned array\(1.\) for 2 samples"),
    ("None", "wrong_type", "returned None for 2 samples"),
    ("'ab'", "wrong_type", "returned 'ab' for 2 samples"),
    ("{0: 1.0, 1: 1.0}", "wrong_type", "returned {0: 1.0, 1: 1.0} for 2 samples"),
    ("{0.0, 1.0}", "wrong_type", "returned {0.0, 1.0} for 2 samples"),
    ("(score for score in [1.0, 1.0])", "wrong_type", "returned <generator"),
    ("[1.0, 'x']", "wrong_type", r"returned 'x' \(str\)"),
    ("[1.0, float('nan')]", "not_finite", "returned nan"),
    ("numpy.ones((2, 2))", "wrong_type", r"returned array\(\[1., 1.\]\) \(ndarray\)"),
]


@pytest.mark.parametrize("prefix", ["", "async "])
def test_a_group_gets_one_score_a_sample(own: Own, prefix: str) -> None:
    source = f"{prefix}def fn(completions) -> list[float]: return eval(completions[0])"
    groups_P = [group(expression, "x") for expression, _, _ in OF_GROUPS]
    found = graded([own(source, head="import numpy\n")], groups_P, forgiving=True)
    assert all(scores.by_reward["fn"] == (None, None) for scores in found.scores_P)
    details = {r["completion"][0]: (r["reason"], r["detail"]) for r in found.quarantine}
    for expression, kind, said in OF_GROUPS:
        assert details[expression][0] == kind, expression
        assert re.match(said, details[expression][1]), expression


NUMBERS = {
    "numpy.float32(0.5)": 0.5,
    "numpy.int64(3)": 3.0,
    "numpy.array(0.25)": 0.25,
    "numpy.bool_(True)": 1.0,
    "True": 1.0,
    "fractions.Fraction(1, 4)": 0.25,
    "torch.tensor(0.5, dtype=torch.bfloat16)": 0.5,
    "torch.tensor(True)": 1.0,
}
ARRAYS = ["numpy.array([0.5, 1.0])", "torch.tensor([0.5, 1.0])", "(0.5, 1)"]


def test_numbers_and_arrays_of_other_libraries_will_do(own: Own) -> None:
    head = "import fractions, numpy, torch\n"
    one = own("def fn(completion): return eval(completion)", head=head)
    whole = own("def fn(completions) -> list[float]: return eval(completions[0])", head=head)
    (scores,) = graded([one], [group(*NUMBERS)]).scores_P
    assert scores.total_G == tuple(NUMBERS.values())
    assert all(type(total) is float for total in scores.total_G)
    found = graded([whole], [group(expression, "x") for expression in ARRAYS])
    assert [scores.total_G for scores in found.scores_P] == [(0.5, 1.0)] * 3


@pytest.mark.parametrize("prefix", ["", "async "])
def test_an_exception_comes_with_three_frames_of_the_users_code(own: Own, prefix: str) -> None:
    source = f"""
import json
def first(c): return second(c)
def second(c):
    return third(c)
def third(c):
    return json.loads(c)
{prefix}def fn(completion):
    return 1.0 if completion == "good" else first(completion)
"""
    kind, detail = failure(own(source))
    file = own.folder / "r0.py"
    assert kind == "exception"
    assert detail == (
        "JSONDecodeError: Expecting value: line 1 column 1 (char 0) "
        f"({file}:4 in first → {file}:6 in second → {file}:8 in third); fix the reward"
    )


def test_a_library_that_was_called_wrongly_shows_the_line_that_called_it(own: Own) -> None:
    source = (
        "import re\ndef fn(completion): return 1.0 if completion == 'good' else re.compile('(')"
    )
    kind, detail = failure(own(source))
    assert kind == "exception" and "unterminated subpattern" in detail
    assert f"({own.folder / 'r0.py'}:3 in fn)" in detail


def test_long_messages_are_cut(own: Own) -> None:
    source = f"""{USER_ERROR}
def fn(completion):
    if completion == "bad": raise ValueError("x" * 10**6)
    return 1.0
"""
    for text in (source, source.replace("ValueError", "UserError")):
        _, detail = failure(own(text))
        assert len(detail) < 3000 and "xxx…" in detail


@pytest.mark.parametrize("prefix", ["", "async "])
def test_a_user_error_says_what_it_says_and_is_not_tried_again(
    own: Own, tmp_path: Path, prefix: str
) -> None:
    source = f"""{USER_ERROR}
{prefix}def fn(completion):
    if completion == "good": return 1.0
    print(1, file=open({str(tmp_path / "tried")!r}, "a"))
    raise UserError("there is no key; set KEY")
"""
    assert failure(own(source, tries=5)) == ("exception", "there is no key; set KEY")
    assert numbers_in(tmp_path / "tried") == [1]


@pytest.mark.parametrize("prefix", ["", "async "])
@pytest.mark.parametrize("tries", [2, 3])
def test_a_call_that_raises_is_tried_again(
    own: Own, tmp_path: Path, prefix: str, tries: int
) -> None:
    source = f"""
import os
{prefix}def fn(completion):
    with open({str(tmp_path / "tried")!r} + completion, "a") as file: print(1, file=file)
    if os.path.getsize({str(tmp_path / "tried")!r} + completion) < 6: raise OSError("not yet")
    return 1.0
"""
    found = graded([own(source, tries=tries, on_error="zero")], [group("a", "b")], forgiving=True)
    usage = found.usage["fn"]
    assert len(numbers_in(tmp_path / "trieda")) == tries
    assert usage.calls == 2 and usage.failures == ({"exception": 2} if tries == 2 else {})
    assert found.scores_P[0].by_reward["fn"] == ((None, None) if tries == 2 else (1.0, 1.0))


def test_a_built_in_that_refuses_names_the_problem() -> None:
    exact = plugins.load("rewards", "exact_match")
    selected = Selected("rewards", "exact_match", exact.Config(name="right"))
    found = graded([selected], [group("4", answer=None)])
    assert found.fatal is not None
    assert re.match(r"reward 'right', prompt own/3, sample 0 \('4'\): .*no answer", found.fatal)


HANGS = {
    "sleeps": "time.sleep(1000)",
    "holds the GIL": "re.match('(a+)+$', 'a' * 64 + 'b')",
    "ignores signals": "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; time.sleep(1000)",
    "catches everything": "\n        ".join(
        ["while True:", " try: time.sleep(1000)", " except BaseException: pass"]
    ),
}


@pytest.mark.parametrize("prefix", ["", "async "])
def test_a_call_that_hangs_is_killed(
    own: Own, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.2)
    cases = "\n".join(f"    if completion == {name!r}:\n        {HANGS[name]}" for name in HANGS)
    source = f"{SLEEP}\n{prefix}def fn(completion):\n{cases}\n    return 1.0\n"
    found = failures(own(source, timeout_s=0.5, tries=3, workers=2), *HANGS)
    for kind, detail in found.values():
        assert kind == "timeout" and "took longer than timeout_s = 0.5; raise it" in detail
        assert ("it blocked its event loop" in detail) == bool(prefix)


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_async_call_that_hangs_is_stopped(
    own: Own, stubborn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.2)
    source = f"""{SLEEP}
async def fn(completion):
    while completion == "bad":
        try: await asyncio.sleep(1000)
        except asyncio.CancelledError:
            if not {stubborn}: raise
    return 1.0
"""
    kind, detail = failure(own(source, timeout_s=0.4))
    assert kind == "timeout"
    assert ("it blocked its event loop" in detail) == stubborn


@pytest.mark.parametrize("prefix", ["", "async "])
def test_a_process_that_ends_is_a_crash_of_the_call_that_ended_it(own: Own, prefix: str) -> None:
    source = f"""{SLEEP}
{prefix}def fn(completion):
    exec(completion) if completion != "good" else None
    return 1.0
"""
    ends = ["os.abort()", "os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"]
    found = failures(own(source, tries=3), *ends)
    for kind, detail in found.values():
        assert kind == "crash" and detail.startswith("its process died: ")
