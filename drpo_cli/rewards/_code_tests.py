"""The tests of a problem whose answer is code: which columns have them, and in which forms.

LiveCodeBench's forms are among them (arXiv 2403.07974): cases that call a function, and hidden
tests that are JSON, pickled, compressed with zlib, and written in base64.
"""

from __future__ import annotations

import ast
import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from drpo_cli.errors import UserError

FORMS = (
    'assert statements, a list of them, or a list of {"input": stdin, "output": expected stdout}'
)
PACKED = "eJ"
"""How base64 of what zlib compressed begins."""


class Case(NamedTuple):
    """Text for stdin and the output that is expected; of a call, arguments and value in JSON."""

    input: str
    output: str
    calls: bool = False


class Where(NamedTuple):
    """The columns of the tests, and those of what is put in front of each and behind it."""

    tests: str | tuple[str, ...] | None = None
    setup: str | None = None
    check: str | None = None


def find_tests(
    answer: str | None, metadata: Mapping[str, Any], where: Where
) -> list[str] | list[Case]:
    """All tests of a problem, statements or cases. Raises UserError for none, or wrong ones."""
    if isinstance(where.tests, tuple):
        found = _join([_find_in(column, None, metadata) for column in where.tests])
    else:
        found = _find_in(where.tests, answer, metadata)
    if not found:
        columns = [where.tests or "tests"] if not isinstance(where.tests, tuple) else where.tests
        raise UserError(f"column {', '.join(map(repr, columns))}: has no tests", f"give {FORMS}")
    return _complete(found, metadata, where)


def find_function(metadata: Mapping[str, Any], column: str | None) -> str:
    """The name of the function that cases call. Raises UserError if there is none."""
    if column is None:
        raise UserError(
            "the tests call a function, and nothing says which",
            "name the column of its name with `function`",
        )
    first, *rest = [column] if column in metadata else column.split(".")
    value = _column(first, "function", metadata)
    for key in rest:
        value = json.loads(value) if isinstance(value, str) else value
        value = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(value, str) or not value.isidentifier():
        raise UserError(f"column {column!r} has no name of a function, but {str(value)[:80]!r}")
    return value


def _join(parts: list[list[str] | list[Case]]) -> list[str] | list[Case]:
    texts = [test for part in parts for test in part if isinstance(test, str)]
    cases = [test for part in parts for test in part if isinstance(test, Case)]
    if texts and cases:
        raise UserError("some columns of `tests` have statements, others cases", f"give {FORMS}")
    return texts or cases


def _find_in(
    column: str | None, answer: str | None, metadata: Mapping[str, Any]
) -> list[str] | list[Case]:
    if column is not None:
        _column(column, "tests", metadata)
    where = f"column {column or 'tests'!r}"
    found = metadata.get(column or "tests")
    if found is None and column is None:
        where, found = "the answer", answer
    if found is None:
        raise UserError(
            "the problem has no tests: neither a column 'tests' nor an answer",
            f"give it {FORMS}, or name the column with `tests`",
        )
    return _parse(found, where)


def _complete(
    tests: list[str] | list[Case], metadata: Mapping[str, Any], where: Where
) -> list[str] | list[Case]:
    """The tests with what other columns put in front of them and behind them."""
    if where.setup is None and where.check is None:
        return tests
    before, after = "", ""
    if where.setup is not None:
        lines = _column(where.setup, "setup", metadata)
        before = "\n".join([lines] if isinstance(lines, str) else map(str, lines or ())) + "\n"
    if where.check is not None:
        after = f"\ncheck({_column(where.check, 'check', metadata)})"
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


def _parse(found: object, where: str) -> list[str] | list[Case]:
    if isinstance(found, str) and found.startswith(PACKED):
        found = _unpack(found, where)
    if isinstance(found, str) and found.lstrip()[:1] in ("[", "{"):
        try:
            found = json.loads(found)
        except ValueError as error:
            raise UserError(
                f"{where}: the tests are not JSON ({error})", f"give {FORMS}"
            ) from error
    given = list(found) if isinstance(found, list | tuple) else [found]
    texts = [_check(t, f"{where}, test {i}") for i, t in enumerate(given) if isinstance(t, str)]
    cases = [_case(t, f"{where}, test {i}") for i, t in enumerate(given) if isinstance(t, Mapping)]
    if len(texts) == len(given):
        return texts
    if len(cases) == len(given):
        return cases
    raise UserError(f"{where}: the tests are {str(found)[:80]!r}", f"give {FORMS}")


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts and containers; a pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _unpack(text: str, where: str) -> object:
    try:
        return _PlainUnpickler(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load()
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise UserError(
            f"{where}: the tests look packed and cannot be read: {error}", f"give {FORMS}"
        ) from error


def _case(test: Mapping[str, Any], where: str) -> Case:
    kind = test.get("testtype", "stdin")
    wrong = set(test) - {"testtype"} != {"input", "output"} or kind not in ("stdin", "functional")
    if wrong or not all(isinstance(value, str) for value in test.values()):
        raise UserError(
            f"{where} is {str(dict(test))[:80]}", "give it an input and an output, as text"
        )
    case = Case(test["input"], test["output"], calls=kind == "functional")
    if case.calls:
        try:
            arguments(case), value(case)
        except ValueError as error:
            raise UserError(
                f"{where} calls a function, and has something that is not JSON: {error}",
                "give an argument on each line of its input, and the value as its output",
            ) from error
    return case


def arguments(case: Case) -> list[Any]:
    """What a case calls the function with."""
    return [json.loads(line) for line in case.input.split("\n")]


def value(case: Case) -> Any:
    """What the function must return."""
    return json.loads(case.output)


@lru_cache(maxsize=4096)  # the samples of a group share their tests
def _check(test: str, where: str) -> str:
    try:
        nodes = list(ast.walk(ast.parse(test)))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{where} is not Python: {error}", f"give {FORMS}") from error
    if not any(isinstance(node, ast.Assert | ast.Raise | ast.Call) for node in nodes):
        raise UserError(f"{where} asserts nothing: {test[:80]!r}", f"give {FORMS}")
    return test
