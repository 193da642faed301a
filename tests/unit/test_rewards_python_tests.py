"""Code rewards: what passes, what does not, and what tries to pass without being right."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from drpo_cli.errors import UserError
from drpo_cli.rewards.python_tests import Config, reward

ASSERTS = ["assert f(1) == 2", "assert f(2) == 3", "assert f(3) == 4", "assert f([]) is None"]
RIGHT = "def f(x):\n    return None if x == [] else x + 1"
CASES = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 6", "output": "11"}]
SCRIPT = "print(sum(map(int, input().split())))"


def score(code: str, tests: object, **options: Any) -> float:
    return reward(code, None, {"tests": tests}, Config(**options))


def test_right_and_wrong_code() -> None:
    assert score(RIGHT, ASSERTS) == 1
    assert score("def f(x): return x + 1", ASSERTS) == 0
    assert score(SCRIPT, CASES) == 1
    assert score("print(3)", CASES) == 0


def test_share_of_tests() -> None:
    # f([]) raises here; a test that hangs or crashes does not take those before it along.
    assert score("def f(x): return x + 1", ASSERTS, partial=True) == 0.75
    hangs = "def f(x):\n    while x == 3: pass\n    return x + 1"
    assert score(hangs, ASSERTS, partial=True, seconds=5.0) == 0.5
    crashes = "import os\ndef f(x): return x + 1 if x == 1 else os.abort()"
    assert score(crashes, ASSERTS, partial=True) == 0.25
    assert score("print(3)", CASES, partial=True) == 0.5


def test_one_text_runs_in_order_and_a_list_in_copies() -> None:
    code = "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)"
    first, second = "assert f(0) == 1", "assert f(0) == 2"
    assert score(code, f"{first}\n{second}") == 1
    assert score(code, [first, second]) == 0
    assert score(code, [first, first]) == 1


def test_a_check_function_and_set_up_lines() -> None:
    text = "import math\ndef check(g):\n    assert g(math.floor(1.5)) == 2\n\ncheck(f)"
    assert score(RIGHT, text) == 1
    assert score("def f(x): return 3", text) == 0


def test_tests_of_humaneval_and_mbpp() -> None:
    """Their columns: a function `check` and the name to call it with; imports beside the tests."""
    prompt = "import math\n\ndef half(x):\n    return x / 2\n\ndef f(x):\n    'One more.'\n"
    row = {"test": "def check(g):\n    assert g(1) == 2 and half(2) == 1", "entry_point": "f"}
    humaneval = Config(tests="test", check="entry_point", begin_with_answer=True)
    assert reward("```python\ndef f(x):\n    return x + half(2)\n```", prompt, row, humaneval) == 1
    assert reward("    return math.floor(x) + 1", prompt, row, humaneval) == 1
    assert reward("    return x", prompt, row, humaneval) == 0
    assert reward("", prompt, row, humaneval) == 0
    rows = {"test_list": ["assert math.floor(f(1.5)) == 2"], "test_imports": ["import math"]}
    mbpp = Config(tests="test_list", setup="test_imports")
    assert reward(RIGHT, None, rows, mbpp) == 1
    assert reward(RIGHT, None, rows | {"test_imports": "import math"}, mbpp) == 1
    assert reward("def f(x): return x - 1", None, rows, mbpp) == 0
    with pytest.raises(UserError, match="no column 'test_imports' for its setup"):
        reward(RIGHT, None, {"test_list": ASSERTS}, mbpp)
    with pytest.raises(UserError, match="have no effect on cases"):
        reward(SCRIPT, None, rows | {"test_list": CASES}, mbpp)
    with pytest.raises(UserError, match="is not Python"):
        reward(RIGHT, None, rows | {"test_imports": ["import"]}, mbpp)


def test_code_does_not_see_the_tests_while_it_loads() -> None:
    """Neither in memory, nor on stdin, nor in a file."""
    code = """
import gc, sys
texts = [o for o in gc.get_objects() if isinstance(o, (list, dict, tuple))]
backwards = [repr(o)[::-1] for o in texts if o is not texts] + [sys.stdin.read()[::-1]]
seen = any("3c2b1a" in text for text in backwards)
def f(x): return seen
"""
    assert score(code, "assert f('a1b2c3') is False") == 1


@pytest.mark.parametrize(
    ("completion", "code_is_right"),
    [
        (f"```python\n{RIGHT}\n```", True),
        (f"first\n```python\nf = 1\n```\nthen\n```py\n{RIGHT}\n```\ndone", True),
        (f"```python\n{RIGHT}\n```\nprints\n```\n2\n```", True),
        (f"```\n{RIGHT}\n```", True),
        (f"```bash\npip install f\n```\nand\n```python\n{RIGHT}\n```\n", True),
        (f"  ```Python\n{RIGHT}\n  ```", True),
        (f"```python\n{RIGHT}\n```\n```python\nf = 1\n```", False),
        (f"here: {RIGHT}", False),
        ("```python\n```", False),
        ("", False),
    ],
)
def test_code_is_found(completion: str, code_is_right: bool) -> None:
    assert score(completion, ASSERTS) == code_is_right


def test_an_unfinished_block_is_no_block() -> None:
    assert score(f"```python\n{RIGHT}", ASSERTS) == 0


@pytest.mark.parametrize(
    "tests", [ASSERTS, tuple(ASSERTS), "\n".join(ASSERTS), json.dumps(ASSERTS)]
)
def test_forms_of_asserts(tests: object) -> None:
    assert score(RIGHT, tests) == 1


def test_where_tests_come_from() -> None:
    mine = Config(tests="mine")
    assert reward(RIGHT, ASSERTS[0], {}, Config()) == 1
    assert reward(RIGHT, ASSERTS[0], {"tests": None}, Config()) == 1
    assert reward(RIGHT, "no tests", {"tests": ASSERTS}, Config()) == 1
    assert reward(RIGHT, None, {"mine": ASSERTS, "tests": ["assert False"]}, mine) == 1
    assert reward(SCRIPT, json.dumps(CASES), {}, Config()) == 1


def test_ends_of_lines_are_not_compared() -> None:
    case = [{"input": "", "output": "a\n b"}]
    assert score("print('a  ')\nprint(' b')\nprint()", case) == 1
    assert score("print('a')\nprint('b')", case) == 0
    assert score("print('a', end='\\r\\n')\nprint(' b', end='')", case) == 1


def test_right_output_of_a_program_that_fails_is_wrong() -> None:
    assert score("print(3)\nraise ValueError", CASES[:1]) == 0


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (None, "no tests: neither a column 'tests' nor an answer"),
        ([], "column 'tests': has no tests"),
        ("", "asserts nothing"),
        ("42", "test 0 asserts nothing: '42'"),
        (["assert f(1) == 2", "assert f(1"], "test 1 is not Python"),
        ("[1,", "are not JSON"),
        ([1], "the tests are '\\[1\\]'"),
        (["assert f(1)", {"input": "", "output": ""}], "the tests are"),
        ([{"input": "1"}], "test 0 is .*; give it an input and an output"),
        ([{"input": 1, "output": "1"}], "give it an input and an output, as text"),
    ],
)
def test_tests_that_are_none(tests: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(RIGHT, tests)


def test_missing_column_names_those_there_are() -> None:
    with pytest.raises(UserError, match=r"no column 'mine'.*columns are level, tests"):
        reward(RIGHT, None, {"level": 1, "tests": ASSERTS}, Config(tests="mine"))


CALLS = [
    {"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"},
    {"input": "[]\n0", "output": "[]", "testtype": "functional"},
]
METHOD = "class Solution:\n    def shift(self, xs: List[int], by: int) -> List[int]:\n        "


def pack(value: object) -> str:
    """As LiveCodeBench writes its hidden tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def contest(code: str, public: object, hidden: object, **options: Any) -> float:
    row = {"public": public, "hidden": hidden, "metadata": json.dumps({"func_name": "shift"})}
    own: dict[str, Any] = {"tests": ["public", "hidden"], "function": "metadata.func_name"}
    return reward(code, None, row, Config(**own, common_imports=True, numbers=True, **options))


def test_cases_that_call_a_function() -> None:
    hidden = pack(json.dumps(CALLS[1:]))
    assert contest(METHOD + "return [x + by for x in xs]", json.dumps(CALLS[:1]), hidden) == 1
    # a tuple stands for the list that JSON has, at the top only, as LiveCodeBench counts
    assert contest(METHOD + "return tuple(x + by for x in xs)", CALLS[:1], hidden) == 1
    assert contest(METHOD + "return [x + 3 for x in xs] or None", CALLS[:1], hidden) == 0
    assert (
        contest(METHOD + "return [x + 3 for x in xs] or 0", CALLS[:1], hidden, partial=True) == 0.5
    )
    assert contest("def shift(xs, by):\n    return [x + by for x in xs]", CALLS[:1], hidden) == 1
    assert contest("def shift(xs):\n    return xs", CALLS[:1], hidden) == 0
    assert (
        contest(
            "from __future__ import annotations\n" + METHOD + "return [x + by for x in xs]",
            CALLS,
            "[]",
        )
        == 1
    )


def test_a_hanging_call_costs_its_own_time_only() -> None:
    hangs = METHOD + "\n        while not xs: pass\n        return [x + by for x in xs]"
    assert contest(hangs, CALLS[::-1], CALLS[:1], partial=True, seconds=2.0) == 2 / 3


def test_lines_with_the_same_numbers() -> None:
    cases = [{"input": "", "output": " 1.50 2\nyes\n\n"}]
    assert contest("print('1.5 2.0')\nprint(' yes')", cases, cases) == 1
    assert contest("print('1.5 2.0')\nprint('Yes')", cases, cases) == 0
    assert contest("print('1.5 2.0 yes')", cases, cases) == 0
    assert contest("print(' 1.50 2')\nprint('yes')", cases, cases) == 1
    assert score("print('1.5 2.0')\nprint('yes')", cases) == 0
    # unlike floats, decimals tell large numbers apart
    large = [{"input": "", "output": "50000000000000000"}]
    assert contest("print('50000000000000001')", large, large) == 0


def test_a_pickle_gives_text_only(tmp_path: Path) -> None:
    """It is data of others: nothing in it may run."""

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "made"),)

    with pytest.raises(UserError, match=r"cannot be read: it wants posix\.mkdir"):
        score(RIGHT, pack(Runs()))
    assert not (tmp_path / "made").exists()
    with pytest.raises(UserError, match="look packed and cannot be read"):
        score(RIGHT, "eJ" + "x" * 40)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tests": CALLS}, "nothing says which"),
        ({"tests": CALLS, "name": 3}, "no name of a function, but '3'"),
        ({"tests": CALLS, "name": "{}"}, "no name of a function, but '{}'"),
        ({"tests": CALLS}, "no column 'name' for its function"),
        ({"tests": [CALLS[0] | {"input": "[1"}], "name": "f"}, "test 0 calls a function, .* JSON"),
        (
            {"tests": [CALLS[0] | {"testtype": "new"}], "name": "f"},
            "give it an input and an output",
        ),
    ],
)
def test_calls_without_a_function(row: dict[str, Any], message: str) -> None:
    column = None if message == "nothing says which" else "name"
    with pytest.raises(UserError, match=message):
        reward(RIGHT, None, row, Config(function=column))


def test_columns_of_statements_and_cases() -> None:
    config = Config(tests=("one", "two"))
    with pytest.raises(UserError, match="some columns of `tests` have statements, others cases"):
        reward(RIGHT, None, {"one": ASSERTS, "two": CASES}, config)
    assert reward(RIGHT, None, {"one": ASSERTS[:1], "two": ASSERTS[1:]}, config) == 1


def test_time_of_all_cases_is_bounded() -> None:
    slow, cases = "import time\ntime.sleep(1)\nprint('x')", [{"input": "", "output": "x"}] * 9
    assert score(slow, cases, partial=True, total_seconds=4.0) < 1
    with pytest.raises(ValidationError, match=r"timeout_s = 30 .*\+ 10 = 50"):
        Config(timeout_s=30.0)


def test_memory_and_packages_are_options() -> None:
    code = "held = bytearray(300 << 20)\ndef f(x): return x + 1"
    assert score(code, ASSERTS[:1]) == 1
    assert score(code, ASSERTS[:1], memory_mib=200) == 0
    code = "import numpy as np\ndef f(x): return np.array([x + 1])[0]"
    assert score(code, ASSERTS[:1]) == 0
    assert score(code, ASSERTS[:1], packages=True, memory_mib=2048) == 1
