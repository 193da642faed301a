"""The program that holds a completion's code against assert statements, inside a sandbox.

Three processes. The judge has the tests and the way out of the sandbox (file descriptor 3), and
never runs the code. The candidate's process loads the code, and forks for each test, so that no
test sees what another changed. A test counts when its process, after its last line, gives back
the number that the judge drew for it: leaving early with status 0 or printing does not help.

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
    """Writes {"passed": index} to file descriptor 3 for each test that holds."""
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
            if not holds(test, asked, answers):
                continue
            os.write(3, json.dumps({"passed": index}).encode() + b"\n")


def holds(test: str, asked: TextIO, answers: TextIO) -> bool:
    """Whether the test's process came to its end."""
    passed, done = secrets.token_hex(16), secrets.token_hex(16)
    tell(asked, [test, passed, done])
    held = False
    for line in answers:
        if line.strip() == done:
            break
        held = held or line.strip() == passed
    return held


def tell(to: TextIO, what: Any) -> None:
    """One line of JSON; a process that is gone is not an error here."""
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
    """Runs it among the code's names; what it raises ends the process."""
    sys.settrace(None)
    sys.setprofile(None)
    vars(module)[COMPARE] = comparison(module)
    exec(compile(test, "<test>", "exec", dont_inherit=True, optimize=0), vars(module))


def comparison(module: types.ModuleType) -> Callable[[str, Any, Any], bool]:
    """A comparison that the code cannot answer by an `__eq__` of its own for another's values."""
    names = vars(module)
    plain = {"Eq": operator.eq, "NotEq": operator.ne}
    methods = (types.FunctionType, types.WrapperDescriptorType)

    def decides(method: object) -> bool:
        home = getattr(method, "__globals__", {})
        mock = home.get("__name__") == "unittest.mock"
        return not isinstance(method, methods) or home is names or mock

    def own(value: object, seen: set[int]) -> bool:
        """Whether something in it is compared by the code's own method."""
        if id(value) in seen:
            return False
        seen.add(id(value))
        kind = type(value)
        if decides(kind.__eq__) or decides(kind.__ne__):
            return True
        return any(own(part, seen) for part in parts(value))

    def compare(how: str, left: Any, right: Any) -> bool:
        if own(left, set()) != own(right, set()):
            raise AssertionError("a value whose class decides by itself what it equals")
        if how in plain:
            return bool(plain[how](left, right))
        return (left in right) == (how == "In")

    return compare


def parts(value: object) -> list[Any]:
    """What a built-in container, or one derived from it, compares in turn."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    return []


if __name__ == "__main__":
    judge()
