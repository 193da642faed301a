"""Tests a completion's code, inside a sandbox, by statements that never share a process with it.

The judge has the tests and the way out of the sandbox (file descriptor 3), and never runs the
code. The candidate, forked before the judge reads the tests, loads the code, and forks for each
test, so that no test sees what another changed. In a test the names of the code are `Remote`
objects: a call sends the arguments to the candidate and gets a value back. So the code can return
wrong values, as any program can, but what is compared, how, and with what is out of its reach.

Standard library only. stdin is one line of JSON: the code, the tests, and whether objects of the
code may decide operators.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import ctypes
import importlib
import io
import json
import math
import os
import socket
import sys
import types
from typing import Any, NoReturn

from drpo_cli.sandbox.peer import Gone, Peer

SET_DUMPABLE = 4
NAME, TESTS = "candidate", "tests"
# Modules of functions without effects, which a test may use because the code imports them.
_SHARED = (
    *("bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools"),
    *("heapq", "itertools", "json", "math", "operator", "random", "re", "statistics", "string"),
    "typing",
)


def judge() -> None:
    """Writes {"passed": index} to file descriptor 3 for each test that passes."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        # Before anything is read, so that no test is in this process's memory.
        ours.close()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.close(3)
        candidate(theirs)
    theirs.close()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DUMPABLE, 0, 0, 0, 0)
    code, tests, decides = json.loads(sys.stdin.readline())
    loader = Peer(ours, _serves, decides)
    try:
        loader.send("load", code)
        names = frozenset(map(str, loader.receive()))
        imports = find_imports(code)
        for index, test in enumerate(tests):
            peer = loader.renew()
            peer.send("test")
            if passes(test, peer, names, imports):
                os.write(3, json.dumps({"passed": index}).encode() + b"\n")
            if not peer.ended:
                peer.send("end")
                while peer.receive() != ["gone"]:
                    pass
    except Gone:
        return


def passes(
    test: str, peer: Peer, names: frozenset[str], imports: dict[str, tuple[str, str | None]]
) -> bool:
    """Whether the test reaches its end."""
    module, code = types.ModuleType(TESTS), types.ModuleType(NAME)
    vars(code)["__getattr__"] = lambda name: peer.ask("name", name)  # for `from candidate import f`
    sys.modules |= {TESTS: module, NAME: code}
    try:
        tree = ast.parse(test)
        vars(module).update(find_names(tree, peer, names, imports))
        exec(compile(tree, "<test>", "exec", dont_inherit=True, optimize=0), vars(module))
    except BaseException:
        return False
    return not peer.broken


def find_names(
    test: ast.AST, peer: Peer, names: frozenset[str], imports: dict[str, tuple[str, str | None]]
) -> dict[str, Any]:
    """What the test uses by name and the code has.

    `abs`, `set` or `isclose` is the code's own only where the test uses no other name of the code:
    then it is what is tested. Otherwise it is Python's, and code that defines it gains nothing.
    """
    used = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)} & names
    others = used - imports.keys() - {*_SHARED} - vars(builtins).keys() - vars(math).keys()
    found: dict[str, Any] = {}
    for name in sorted(used):
        if name in imports:
            module, attribute = imports[name]
            imported = importlib.import_module(module)
            found[name] = imported if attribute is None else getattr(imported, attribute)
        elif name in others or not others:
            found[name] = peer.ask("name", name)
        elif name in _SHARED:
            found[name] = importlib.import_module(name)
        elif name not in vars(builtins):
            found[name] = vars(math)[name]
    return found


def find_imports(code: str) -> dict[str, tuple[str, str | None]]:
    """What the code imports from modules that tests may share, by name: module and attribute."""
    found: dict[str, tuple[str, str | None]] = {}
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    for node in body:
        if isinstance(node, ast.Import):
            for one in node.names:
                found[one.asname or one.name] = (one.name, None)
        elif isinstance(node, ast.ImportFrom) and node.module in _SHARED:
            for one in node.names:
                every = vars(importlib.import_module(node.module)) if one.name == "*" else ()
                for name in every or [one.asname or one.name]:
                    found[name] = (node.module, name if every else one.name)
        else:
            defined = [name.id for name in ast.walk(node) if isinstance(name, ast.Name)]
            for name in (*defined, getattr(node, "name", "")):
                if name in found and _binds(node, name):
                    del found[name]
    return {name: place for name, place in found.items() if place[0] in _SHARED}


def _binds(node: ast.stmt, name: str) -> bool:
    return getattr(node, "name", None) == name or any(
        isinstance(one, ast.Name) and one.id == name and isinstance(one.ctx, ast.Store)
        for one in ast.walk(node)
    )


def _serves(operation: str, given: list[Any]) -> bool:
    """Whether the code may apply the operation to an object of the test that it was handed.

    Functions may be called. Attributes are for objects of classes that the test defines: those of
    other objects, such as frames, lead to the test itself.
    """
    if operation in ("get", "set"):
        what, name = given[0], given[1]
        kind = type(what)
        ours = kind.__module__ == TESTS or kind in (io.StringIO, io.BytesIO)
        if not ours or not isinstance(name, str) or name.startswith("_"):
            return False
        return operation == "get" or not callable(getattr(kind, name, None))
    return operation != "name"


def candidate(connection: socket.socket) -> NoReturn:
    """Loads the code, then runs the calls of each test in a copy of this process."""
    module = types.ModuleType(NAME)
    fork, wait, leave = os.fork, os.waitpid, os._exit
    code = Peer(connection, None, True).receive()[1]
    sys.modules[NAME] = module
    exec(compile(code, f"<{NAME}>", "exec", dont_inherit=True), vars(module))
    names = list(map(str, vars(module)))
    with contextlib.suppress(Gone):
        while True:
            # A new one each time: what the last one has read ahead is for its child.
            peer = Peer(connection, None, True, lambda name: getattr(module, name))
            peer.send(*names)
            names = ["gone"]
            peer.receive()
            child = fork()
            if child == 0:
                while (message := peer.receive())[0] != "end":
                    peer.serve(message)
                leave(0)
            wait(child, 0)
    leave(0)


if __name__ == "__main__":
    judge()
