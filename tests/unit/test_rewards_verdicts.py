"""Verdicts of `python_tests`: what cheats, on every backend, and what is honest, in all forms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from drpo_cli.rewards import python_tests
from drpo_cli.rewards.python_tests import Config, reward
from drpo_cli.sandbox import run as sandbox
from support.cheats import CHEATS, FORMS, PRELUDE
from support.cheats_of_tests import OTHERS
from support.sandboxes import machine, open_temporary
from support.verdicts import HONEST

ALL = {
    **{name: (PRELUDE + code, FORMS) for name, code in CHEATS.items()},
    **{name: (code, [test]) for name, (code, test) in OTHERS.items()},
    **{f"honest: {name}": (code, [test]) for name, (code, test, _) in HONEST.items()},
    "right": ("def f(x): return x + 1", FORMS),
}
ONE_AFTER_THE_OTHER = """
import json, os, signal, time
for number, case in enumerate(json.load(sys.stdin)):
    with open("case", "w") as file:
        file.write(json.dumps([*case, False]) + "\\n")
    child = os.fork()
    if child == 0:
        os.setsid()
        for place, fd in ((0, os.open("case", os.O_RDONLY)), (3, os.open("said", 0o1101, 0o600))):
            os.dup2(fd, place)
            os.close(fd)
        module.judge()
        os._exit(0)
    end = time.monotonic() + SECONDS
    while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < end:
        time.sleep(0.001)
    try:
        os.killpg(child, signal.SIGKILL)
    except OSError:
        pass
    with open("said") as file:
        os.write(3, json.dumps([number, file.read()]).encode() + b"\\n")
"""


@pytest.fixture(scope="module", params=sandbox.BACKENDS)
def passed(request: pytest.FixtureRequest) -> dict[str, list[int]]:
    """The tests that pass, by number, for the code of each name: one sandbox for many."""
    harness = python_tests._harness().removesuffix("module.judge()\n")
    program = harness + ONE_AFTER_THE_OTHER.replace("SECONDS", "5.0")
    limits = sandbox.Limits(wall_s=240.0, cpu_s=240.0, processes=64)
    found: dict[str, list[int]] = {}
    with open_temporary() as folder:
        box = machine(request.param, folder)
        names = list(ALL)
        for some in (names[at : at + 30] for at in range(0, len(names), 30)):
            stdin = json.dumps([ALL[name] for name in some])
            result = sandbox._supervise(program, stdin, limits, box.backend, False, box.python)
            reports = dict(map(json.loads, result.report.splitlines()))
            assert len(reports) == len(some), (some[len(reports)], result.reason, result.stderr)
            for number, said in reports.items():
                lines = map(json.loads, said.splitlines())
                found[some[number]] = [line["passed"] for line in lines]
    return found


def score(code: str, tests: object, **options: Any) -> float:
    return reward(code, None, {"tests": tests}, Config(**options))


@pytest.mark.parametrize("name", [*CHEATS, *OTHERS])
def test_cheat_passes_nothing(passed: dict[str, list[int]], name: str) -> None:
    assert passed[name] == []


def test_the_forms_pass_with_right_code(passed: dict[str, list[int]]) -> None:
    assert passed["right"] == list(range(len(FORMS)))


@pytest.mark.parametrize("name", HONEST)
def test_honest_code_gets_what_it_deserves(passed: dict[str, list[int]], name: str) -> None:
    assert passed[f"honest: {name}"] == ([0] if HONEST[name][2] else [])


def test_the_reward_counts_what_passes() -> None:
    right, wrong = HONEST["equal"][1], HONEST["equal, wrongly"][1]
    assert score(HONEST["equal"][0], [right, wrong], partial=True) == 0.5
    assert score(PRELUDE + CHEATS["agrees"], FORMS, partial=True) == 0


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
