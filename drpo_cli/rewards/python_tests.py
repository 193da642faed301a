"""1 where the completion's Python code passes the problem's tests, else 0.

The code is the last fenced block marked `python` (or `py`), else the last block without a mark,
else the whole completion. The tests are the problem's column `tests`, else its answer, as a value
or JSON:

    "assert f(1) == 2\\nassert f(2) == 3"        one test: all of it, in order
    ["assert f(1) == 2", "assert f(2) == 3"]    tests, each in a fresh copy of the loaded code
    [{"input": "1 2\\n", "output": "3\\n"}]       runs of the code as a script, stdin → stdout

White space at the ends of output lines, and empty lines at the end, are not compared.

The code runs in a sandbox, which limits its time, memory, processes, files and output, and ends
everything that it started. What each backend stops is a table in docs/sandbox.md; see above all
who may read files.

The code cannot forge a verdict. Tests run in a process of their own, which calls the code in
another: arguments go there and values come back as copies of built-in types, and are compared
where the code never ran. Expected values never enter its process. In stdin/stdout cases, the
output is compared outside the sandbox. docs/sandbox.md says what a test can and cannot ask.
"""

from __future__ import annotations

import ast
import json
import math
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from drpo_cli import sandbox
from drpo_cli.errors import UserError
from drpo_cli.sandbox.run import Limits, Result, run_program
from drpo_cli.settings import Count, ParserSettings

_FORMS = (
    'assert statements, a list of them, or a list of {"input": stdin, "output": expected stdout}'
)
_SPARE_S = 10.0  # to start and to clean up, on top of the programs' time
_HARNESS = ("values", "remote", "peer", "asserts")  # in the order of their imports
_PYTHON = {"python": 1, "py": 1, "python3": 1, "": 0}


class Config(ParserSettings):
    """Options of the tests and limits of the sandbox."""

    tests: Annotated[str, Field(min_length=1)] | None = None
    """Column of the tests. When not set: `tests`, or the answer where there is no such column."""
    setup: Annotated[str, Field(min_length=1)] | None = None
    """Column of statements that run in front of every test, a text or a list: MBPP's imports."""
    check: Annotated[str, Field(min_length=1)] | None = None
    """Column of a function's name, for tests that define `check`: `check(NAME)` ends each of them,
    as HumanEval's tests expect."""
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


class _Case(NamedTuple):
    input: str
    output: str


def reward(
    completion: str, answer: str | None, metadata: Mapping[str, Any], config: Config
) -> float:
    """From 0 to 1. Raises UserError for missing or malformed tests, and without a sandbox."""
    tests = _find_tests(answer, metadata, config)
    code = find_code(completion)
    if not code.strip():
        return 0.0
    if config.begin_with_answer:
        code = f"{answer or ''}\n{code}"
    if isinstance(tests[0], _Case):
        passed = _run_cases(code, [case for case in tests if isinstance(case, _Case)], config)
    else:
        passed = _run_asserts(code, [str(test) for test in tests], config)
    return passed / len(tests) if config.partial else float(passed == len(tests))


def _run_asserts(code: str, tests: list[str], config: Config) -> int:
    stdin = json.dumps([code, tests, config.operators == "code"]) + "\n"
    seconds = min(config.seconds, config.total_seconds)
    result = _run(_harness(), stdin, seconds, config)
    return len({json.loads(line)["passed"] for line in result.report.splitlines()})


def _run_cases(code: str, cases: list[_Case], config: Config) -> int:
    passed, end = 0, time.monotonic() + config.total_seconds
    for case in cases:
        seconds = min(config.seconds, end - time.monotonic())
        if seconds <= 0:
            break
        result = _run(code, case.input, seconds, config)
        right = result.reason == "ok" and _lines(result.stdout) == _lines(case.output)
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


def _lines(output: str) -> list[str]:
    return [line.rstrip() for line in output.rstrip().splitlines()]


def _find_tests(
    answer: str | None, metadata: Mapping[str, Any], config: Config
) -> list[str] | list[_Case]:
    column = config.tests
    if column is not None:
        _column(column, "tests", metadata)
    where = f"column {column or 'tests'!r}"
    found = metadata.get(column or "tests")
    if found is None and column is None:
        where, found = "the answer", answer
    if found is None:
        raise UserError(
            "the problem has no tests: neither a column 'tests' nor an answer",
            f"give it {_FORMS}, or name the column with `tests`",
        )
    return _complete(_parse(found, where), metadata, config)


def _complete(
    tests: list[str] | list[_Case], metadata: Mapping[str, Any], config: Config
) -> list[str] | list[_Case]:
    """The tests with what other columns put in front of them and behind them."""
    if config.setup is None and config.check is None:
        return tests
    before, after = "", ""
    if config.setup is not None:
        lines = _column(config.setup, "setup", metadata)
        before = "\n".join([lines] if isinstance(lines, str) else map(str, lines or ())) + "\n"
    if config.check is not None:
        after = f"\ncheck({_column(config.check, 'check', metadata)})"
    found = [f"{before}{test}{after}" for test in tests if isinstance(test, str)]
    if len(found) < len(tests):
        raise UserError(
            "`setup` and `check` have no effect on cases of input and output", "remove them"
        )
    return [_check(test, f"test {i} with `setup` and `check`") for i, test in enumerate(found)]


def _column(name: str, option: str, metadata: Mapping[str, Any]) -> Any:
    if name not in metadata:
        columns = ", ".join(metadata) or "none"
        raise UserError(
            f"the problem has no column {name!r} for its {option}; the columns are {columns}",
            f"name one with `{option}`",
        )
    return metadata[name]


def _parse(found: object, where: str) -> list[str] | list[_Case]:
    if isinstance(found, str) and found.lstrip()[:1] in ("[", "{"):
        try:
            found = json.loads(found)
        except ValueError as error:
            raise UserError(
                f"{where}: the tests are not JSON ({error})", f"give {_FORMS}"
            ) from error
    given = list(found) if isinstance(found, list | tuple) else [found]
    texts = [_check(t, f"{where}, test {i}") for i, t in enumerate(given) if isinstance(t, str)]
    cases = [_case(t, f"{where}, test {i}") for i, t in enumerate(given) if isinstance(t, Mapping)]
    if given and len(texts) == len(given):
        return texts
    if given and len(cases) == len(given):
        return cases
    raise UserError(f"{where}: the tests are {str(found)[:80]!r}", f"give {_FORMS}")


def _case(test: Mapping[str, Any], where: str) -> _Case:
    if set(test) != {"input", "output"} or not all(isinstance(v, str) for v in test.values()):
        raise UserError(
            f"{where} is {str(dict(test))[:80]}", "give it an input and an output, as text"
        )
    return _Case(test["input"], test["output"])


@lru_cache(maxsize=4096)  # the samples of a group share their tests
def _check(test: str, where: str) -> str:
    try:
        nodes = list(ast.walk(ast.parse(test)))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{where} is not Python: {error}", f"give {_FORMS}") from error
    if not any(isinstance(node, ast.Assert | ast.Raise | ast.Call) for node in nodes):
        raise UserError(f"{where} asserts nothing: {test[:80]!r}", f"give {_FORMS}")
    return test


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
