"""Verdicts of `python_tests`: what cheats, on every backend, and what is honest, in all forms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from drpo_cli.rewards import python_tests
from drpo_cli.rewards.python_tests import Config, reward
from drpo_cli.rewards.sandbox import run as sandbox
from support.cheats import CHEATS, FORMS, OTHERS, PRELUDE
from support.sandboxes import Machine, machine, open_temporary
from support.verdicts import HONEST


@pytest.fixture(params=sandbox.BACKENDS)
def box(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with open_temporary() as folder, pytest.MonkeyPatch.context() as patch:
        found = machine(request.param, folder)

        def run(program: str, stdin: str, limits: Any, *_: object) -> sandbox.Result:
            return sandbox._supervise(program, stdin, limits, found.backend, False, found.python)

        patch.setattr(python_tests, "run_program", run)
        yield found


def score(code: str, tests: object, **options: Any) -> float:
    return reward(code, None, {"tests": tests}, Config(**options))


@pytest.mark.parametrize("code", CHEATS.values(), ids=CHEATS)
def test_cheat_passes_no_form_of_a_test(box: Machine, code: str) -> None:
    assert score(PRELUDE + code, FORMS, partial=True, seconds=5.0) == 0


@pytest.mark.parametrize(("code", "test"), OTHERS.values(), ids=OTHERS)
def test_cheat_does_not_pass_its_test(box: Machine, code: str, test: str) -> None:
    assert score(code, test, seconds=5.0) == 0


def test_the_forms_pass_with_right_code() -> None:
    right = "def f(x): return x + 1"
    assert [form for form in FORMS if score(right, form) != 1] == []


BY_CODE: dict[str, list[str]] = defaultdict(list)
for name, (code, _, right) in HONEST.items():
    BY_CODE[code if right else name].append(name)


@pytest.mark.parametrize("names", BY_CODE.values(), ids=lambda names: names[0])
def test_honest_code_gets_what_it_deserves(names: list[str]) -> None:
    """One sandbox for the tests of one code that must pass."""
    code, _, right = HONEST[names[0]]
    tests = [HONEST[name][1] for name in names]
    assert score(code, tests, partial=True, seconds=60.0, total_seconds=50.0) == right


OPERATORS = """
class Vector:
    def __init__(self, *parts): self.parts = parts
    def __mul__(self, by): return Vector(*(by * part for part in self.parts))
    def __rmul__(self, by): return self * by
    def __eq__(self, other): return tuple(self) == tuple(other)
    def __iter__(self): return iter(self.parts)
    def __contains__(self, part): return part in self.parts
"""


@pytest.mark.parametrize(
    "test", ["assert 2 * Vector(1, 2) == Vector(2, 4)", "assert Vector(1, 2) == (1, 2)"]
)
def test_operators_of_the_codes_classes_decide_only_when_asked_to(test: str) -> None:
    assert score(OPERATORS, test) == 0
    assert score(OPERATORS, test, operators="code") == 1


def test_packages_arrays_are_values() -> None:
    code = "import numpy as np\ndef f(x): return np.array([[x, 2]]) / 2"
    tests = [
        "import numpy as np\nassert np.allclose(f(1), [[0.5, 1]]) and f(1).shape == (1, 2)",
        "import numpy as np\nassert f(np.float32(1)).tolist() == [[0.5, 1]]",
    ]
    assert score(code, tests, packages=True, memory_mib=2048, seconds=30.0) == 1


def test_expected_values_never_enter_the_codes_process() -> None:
    code = """
import gc
def f(x):
    held = (o for o in gc.get_objects() if type(o) in (list, dict, tuple))
    return any("3c2b1a" in repr(o)[::-1] for o in held)
"""
    assert score(code, "v = f(1)\nassert v is False and v != 'a1b2c3'", seconds=30.0) == 1
