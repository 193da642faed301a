"""Tests a completion's code by assert statements, inside a sandbox.

Three processes. The judge has the tests and the way out of the sandbox (file descriptor 3), and
never runs the code. The candidate loads the code and forks for each test, so that no test sees
what another changed. A test passes when its process, after its last line, returns the random
number that the judge drew for it: leaving early with status 0 or printing does not help.

Standard library only, and nothing from this package. stdin is two lines of JSON: the code, and
the list of tests.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import json
import operator
import os
import secrets
import socket
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

SET_DUMPABLE = 4
COMPARE = "_compare_"  # what tests call in place of ==, !=, in and not in
NAME = "candidate"


def judge() -> None:
    """Writes {"passed": index} to file descriptor 3 for each test that passes."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        # Before anything is read, so that no test is in this process's memory.
        ours.close()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.close(3)
        candidate(theirs.makefile("r"), theirs.makefile("w"))
    theirs.close()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DUMPABLE, 0, 0, 0, 0)
    asked, answers = ours.makefile("w"), ours.makefile("r")
    code, tests = json.loads(sys.stdin.readline()), json.loads(sys.stdin.readline())
    tell(asked, code)
    if answers.readline():
        for index, test in enumerate(tests):
            if passes(test, asked, answers):
                os.write(3, json.dumps({"passed": index}).encode() + b"\n")


def passes(test: str, asked: TextIO, answers: TextIO) -> bool:
    """Whether the test's process reached the end of the test."""
    passed, done = secrets.token_hex(16), secrets.token_hex(16)
    tell(asked, [test, passed, done])
    found = False
    for line in answers:
        if line.strip() == done:
            break
        found = found or line.strip() == passed
    return found


def tell(to: TextIO, what: Any) -> None:
    """Sends one line of JSON; a process that has ended is not an error here."""
    with contextlib.suppress(BrokenPipeError):
        to.write(json.dumps(what) + "\n")
        to.flush()


def candidate(requests: TextIO, answers: TextIO) -> NoReturn:
    """Loads the code, then runs each test in a copy of this process."""
    module = types.ModuleType(NAME)
    kept, fork, wait, leave = dict(vars(builtins)), os.fork, os.waitpid, os._exit
    code = json.loads(requests.readline())
    sys.modules[NAME] = module
    exec(compile(code, f"<{NAME}>", "exec", dont_inherit=True), vars(module))
    vars(builtins).update(kept)
    tell(answers, "loaded")
    for line in requests:
        test, passed, done = json.loads(line)
        child = fork()
        if child == 0:
            run_test(test, module)
            answers.write(passed + "\n")
            answers.flush()
            leave(0)
        wait(child, 0)
        answers.write(done + "\n")
        answers.flush()
    leave(0)


def run_test(test: str, module: types.ModuleType) -> None:
    """Runs the test with the code's names; an exception ends the process."""
    sys.settrace(None)
    sys.setprofile(None)
    vars(module)[COMPARE] = make_comparison(module)
    exec(compile(test, "<test>", "exec", dont_inherit=True, optimize=0), vars(module))


def make_comparison(module: types.ModuleType) -> Callable[[str, Any, Any], bool]:
    """A comparison in which an `__eq__` of the code cannot decide about values of another class."""
    names = vars(module)
    plain = {"Eq": operator.eq, "NotEq": operator.ne}
    methods = (types.FunctionType, types.WrapperDescriptorType)

    def decides(method: object) -> bool:
        home = getattr(method, "__globals__", {})
        mock = home.get("__name__") == "unittest.mock"
        return not isinstance(method, methods) or home is names or mock

    def own(value: object, seen: set[int]) -> bool:
        """Whether a method of the code compares the value or a part of it."""
        if id(value) in seen:
            return False
        seen.add(id(value))
        kind = type(value)
        if decides(kind.__eq__) or decides(kind.__ne__):
            return True
        return any(own(part, seen) for part in parts(value))

    def compare(how: str, left: Any, right: Any) -> bool:
        if own(left, set()) != own(right, set()):
            raise AssertionError("a value whose class decides itself what it equals")
        if how in plain:
            return bool(plain[how](left, right))
        return bool((left in right) == (how == "In"))

    return compare


def parts(value: object) -> list[Any]:
    """The values that a built-in container, or a class derived from one, compares."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    return []


if __name__ == "__main__":
    judge()
