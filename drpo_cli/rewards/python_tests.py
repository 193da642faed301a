"""1 where the completion's Python code passes the problem's tests, else 0.

The code is the last fenced block marked `python` (or `py`), else the last block without a mark,
else the whole completion. The tests are the problem's column `tests`, else its answer, as a value
or JSON:

    "assert f(1) == 2\\nassert f(2) == 3"        one test: all of it, in order
    ["assert f(1) == 2", "assert f(2) == 3"]    tests, each in a fresh copy of the loaded code
    [{"input": "1 2\\n", "output": "3\\n"}]       runs of the code as a script, stdin → stdout
    [{"input": "1\\n2", "output": "3", "testtype": "functional"}]    calls of `function`: an
                                                argument in JSON on each line → its value in JSON

White space at the ends of output lines, and empty lines at the end, are not compared. Tests may
also be packed as LiveCodeBench's hidden ones are: JSON, pickled, compressed, in base64. Only text
is taken from a pickle.

The code runs in a sandbox, which limits its time, memory, processes, files and output, and ends
everything that it started. What each backend stops is a table in docs/sandbox.md; see above all
who may read files.

The code cannot forge a verdict. Tests run in a process of their own, which calls the code in
another: arguments go there and values come back as copies of built-in types, and are compared
where the code never ran. Expected values never enter its process. In stdin/stdout cases, the
output is compared outside the sandbox. docs/sandbox.md says what a test can and cannot ask.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from drpo_cli import sandbox
from drpo_cli.rewards._code_tests import Case, Where, arguments, find_function, find_tests, value
from drpo_cli.sandbox.run import Limits, Result, run_program
from drpo_cli.settings import Count, ParserSettings

_SPARE_S = 10.0  # to start and to clean up, on top of the programs' time
_HARNESS = ("values", "remote", "peer", "asserts")  # in the order of their imports
_PYTHON = {"python": 1, "py": 1, "python3": 1, "": 0}
_EVERY_NAME = (
    *("bisect", "collections", "copy", "datetime", "functools", "heapq", "itertools", "json"),
    *("math", "operator", "random", "re", "statistics", "string", "typing"),
)
_COMMON = (
    "import sys\n"
    + "".join(f"from {name} import *\nimport {name}\n" for name in _EVERY_NAME)
    + "from builtins import *\nsys.setrecursionlimit(50000)\n"
)

Column = Annotated[str, Field(min_length=1)]


class Config(ParserSettings):
    """Options of the tests and limits of the sandbox."""

    tests: Column | Annotated[tuple[Column, ...], Field(min_length=1, strict=False)] | None = None
    """Column of the tests, or a list of columns whose tests follow each other. When not set:
    `tests`, or the answer where there is no such column."""
    setup: Column | None = None
    """Column of statements that run in front of every test, a text or a list: MBPP's imports."""
    check: Column | None = None
    """Column of a function's name, for tests that define `check`: `check(NAME)` ends each of them,
    as HumanEval's tests expect."""
    function: Column | None = None
    """Column of the function's name, for cases that call it; dots reach into a column of JSON:
    `metadata.func_name`. A method if the code has a `class Solution`."""
    common_imports: bool = False
    """Put imports of the modules that contest solutions use in front of the code, all names of
    `collections`, `heapq`, `math`, `typing` and the like included, as LiveCodeBench does."""
    numbers: bool = False
    """Lines of output are also equal if they have the same numbers: `1.0 2` and `1 2`. White space
    in front of a line does not count then either."""
    begin_with_answer: bool = False
    """Put the problem's answer, as code, in front of the completion's: HumanEval's prompt, whose
    imports and helpers a solution may use, and which a base model continues."""
    seconds: Annotated[float, Field(gt=0)] = 10.0
    """Longest time for one program, by the clock: all asserts of a problem, or one case."""
    total_seconds: Annotated[float, Field(gt=0)] = 40.0
    """Longest time for all cases; a case that has not run by then has not passed."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest time for one call, in seconds; at least 10 more than `total_seconds`."""
    memory_mib: Annotated[int, Field(ge=64)] = 512
    """Memory of a program and everything that it starts."""
    processes: Count = 32
    """Processes of a program at a time, with itself."""
    backend: Literal["auto", "bubblewrap", "plain"] = "auto"
    """The sandbox. `auto` is bubblewrap where it works, else `plain`, which stops less, but never
    `plain` for root; name one to make sure of it."""
    packages: bool = False
    """Let the code import the packages installed with drpo, not only the standard library."""
    operators: Literal["tests", "code"] = "tests"
    """Who decides `==`, `<`, `+`, `in` and the like between an object of a class that the code
    defines and a value of the test: `tests` fails the test, since an object that agrees with
    everything would pass it; `code` asks the class, for tests of classes that nobody games."""
    partial: bool = False
    """Score the share of tests that pass instead of all or nothing."""

    @model_validator(mode="after")
    def _check_time(self) -> Config:
        if self.timeout_s < self.total_seconds + _SPARE_S:
            raise ValueError(
                f"timeout_s = {self.timeout_s:g} would end a call before its tests; set it to at "
                f"least total_seconds + {_SPARE_S:g} = {self.total_seconds + _SPARE_S:g}"
            )
        return self


def reward(
    completion: str, answer: str | None, metadata: Mapping[str, Any], config: Config
) -> float:
    """From 0 to 1. Raises UserError for missing or malformed tests, and without a sandbox."""
    tests = find_tests(answer, metadata, Where(config.tests, config.setup, config.check))
    code = find_code(completion)
    if not code.strip():
        return 0.0
    if config.begin_with_answer:
        code = f"{answer or ''}\n{code}"
    if config.common_imports:
        code = _with_imports(code)
    if isinstance(tests[0], Case):
        cases = [case for case in tests if isinstance(case, Case)]
        calls = any(case.calls for case in cases)
        function = find_function(metadata, config.function) if calls else ""
        passed = _run_cases(code, cases, function, config)
    else:
        passed = _run_asserts(code, [str(test) for test in tests], config)
    return passed / len(tests) if config.partial else float(passed == len(tests))


def _run_asserts(code: str, tests: list[str], config: Config) -> int:
    return _judge(code, tests, min(config.seconds, config.total_seconds), config)


def _judge(code: str, tests: list[str], seconds: float, config: Config) -> int:
    """How many tests pass, with `seconds` for all of them."""
    stdin = json.dumps([code, tests, config.operators == "code"]) + "\n"
    result = _run(_harness(), stdin, seconds, config)
    return len({json.loads(line)["passed"] for line in result.report.splitlines()})


def _run_cases(code: str, cases: list[Case], function: str, config: Config) -> int:
    passed, end = 0, time.monotonic() + config.total_seconds
    for case in cases:
        seconds = min(config.seconds, end - time.monotonic())
        if seconds <= 0:
            break
        if case.calls:
            right = _judge(code, [_call(code, function, case)], seconds, config) == 1
        else:
            result = _run(code, case.input, seconds, config)
            right = result.reason == "ok" and _equal(result.stdout, case.output, config.numbers)
        passed += right
        if not right and not config.partial:
            break
    return passed


def _run(program: str, stdin: str, seconds: float, config: Config) -> Result:
    limits = Limits(
        wall_s=seconds,
        cpu_s=math.ceil(seconds),
        memory_mib=config.memory_mib,
        processes=config.processes,
    )
    return run_program(program, stdin, limits, config.backend, config.packages)


@lru_cache
def _harness() -> str:
    """A program with the modules of the harness in it: in the sandbox there is no drpo."""
    folder, package = Path(sandbox.__file__).parent, "drpo_cli.sandbox"
    parents = ["drpo_cli", package]
    sources = {f"{package}.{n}": (folder / f"{n}.py").read_text() for n in _HARNESS}
    return f"""import sys, types
for name in {parents!r}:
    sys.modules[name] = types.ModuleType(name)
for name, source in {sources!r}.items():
    sys.modules[name] = module = types.ModuleType(name)
    exec(compile(source, name, "exec"), vars(module))
module.judge()
"""


def find_code(completion: str) -> str:
    """The code of a completion: its last block marked as Python, else see above."""
    blocks: list[tuple[int, str]] = []
    language, lines = None, []
    for line in completion.splitlines():
        stripped = line.strip()
        if not stripped.startswith("```"):
            lines.append(line)
        elif language is None:
            language, lines = stripped.strip("`").strip().lower(), []
        else:
            if language in _PYTHON:
                blocks.append((_PYTHON[language], "\n".join(lines)))
            language = None
    best = max((marked for marked, _ in blocks), default=None)
    return next((code for marked, code in reversed(blocks) if marked == best), completion)


def _with_imports(code: str) -> str:
    """The code behind `_COMMON`, and its imports from `__future__` in front of both."""
    lines = code.splitlines(keepends=True)
    future = [i for i, line in enumerate(lines) if line.startswith("from __future__ ")]
    end = future[-1] + 1 if future else 0
    return "".join([*lines[:end], "\n" * bool(end), _COMMON, *lines[end:]])


def _call(code: str, function: str, case: Case) -> str:
    """A test that calls the function; a tuple counts as the list that JSON has in its place."""
    owner = "Solution()." if "class Solution" in code else ""
    call = f"{owner}{function}({', '.join(map(repr, arguments(case)))})"
    found = "list(found_) if isinstance(found_, tuple) else found_"
    return f"found_ = {call}\nassert ({found}) == {value(case)!r}"


def _equal(output: str, expected: str, numbers: bool) -> bool:
    if not numbers:
        return _lines(output) == _lines(expected)
    ours, theirs = _lines(output.strip()), _lines(expected.strip())
    return len(ours) == len(theirs) and all(map(_same_numbers, ours, theirs))


def _same_numbers(line: str, expected: str) -> bool:
    if line.strip() == expected.strip():
        return True
    try:
        return [*map(Decimal, line.split())] == [*map(Decimal, expected.split())]
    except ArithmeticError:
        return False


def _lines(output: str) -> list[str]:
    return [line.rstrip() for line in output.rstrip().splitlines()]


_ADD = "Adding:\n```python\ndef add(a, b):\n    return a + b\n```\n"
_WRONG = "def add(a, b):\n    return 2 * b"
_QUITS = "import sys\nsys.exit(0)"
_TWO = ["assert add(1, 2) == 3", "assert add(2, 2) == 4"]
_SUM = [{"input": "1 2\n", "output": "3"}, {"input": "4 5\n", "output": "9"}]
_SCRIPT = "print(sum(map(int, input().split())))"
EXAMPLES = [
    ({"completion": _ADD, "answer": _TWO[0], "metadata": {}, "config": Config()}, 1.0),
    ({"completion": _QUITS, "answer": _TWO[0], "metadata": {}, "config": Config()}, 0.0),
    ({"completion": _WRONG, "answer": None, "metadata": {"tests": _TWO}, "config": Config()}, 0.0),
    (
        {
            "completion": _WRONG,
            "answer": None,
            "metadata": {"tests": _TWO},
            "config": Config(partial=True),
        },
        0.5,
    ),
    (
        {
            "completion": _SCRIPT,
            "answer": None,
            "metadata": {"cases": json.dumps(_SUM)},
            "config": Config(tests="cases"),
        },
        1.0,
    ),
]
