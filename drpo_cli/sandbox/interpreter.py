"""The program of a session: runs pieces of code, one after another, with the same variables.

A request is one line of JSON on stdin, `{"call": number, "code": …, "most": characters}`, and its
answer one line on the report: `{"call": …, "output": …, "error": … or null}`. Before the first
request it writes a line.
`output` has what the code and its processes printed, and the value of a last expression, as in a
notebook.

Standard library only and nothing from this package: it runs inside the sandbox. What it reports is
for the model that wrote the code, so nothing here is kept from that code but its own descriptors.
"""

from __future__ import annotations

import ast
import contextlib
import json
import linecache
import os
import random
import sys
import tempfile
import traceback
import types
from typing import Any, TextIO

_REPORT_FD = 3


def serve() -> None:
    """Answers requests until there are no more."""
    own = os.getpid()
    requests, report = os.fdopen(os.dup(0), "rb"), os.dup(_REPORT_FD)
    os.close(_REPORT_FD)
    with open(os.devnull) as empty:
        os.dup2(empty.fileno(), 0)
    with tempfile.TemporaryFile(buffering=0) as printed:
        for fd in (1, 2):
            os.dup2(printed.fileno(), fd)
    sys.stdout, sys.stderr = _writer(1), _writer(2)
    random.seed(0)  # or the same code would not do the same in a run that is repeated
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    _send(report, {})
    for number, line in enumerate(requests, 1):
        request = json.loads(line)
        error = _run(request["code"], f"<call {number}>", vars(main))
        if os.getpid() != own:
            os._exit(0)  # a process that the code forked, and that came back from it
        most, answer = request["most"], {"call": request["call"]}
        answer |= {"output": _printed(most), "error": error and _cut(error, most)}
        _send(report, answer)


def _run(code: str, file: str, variables: dict[str, Any]) -> str | None:
    """Returns the traceback if the code raised anything."""
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    try:
        tree = ast.parse(code, file)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, file, "exec"), variables)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), file, "eval"), variables)
            if value is not None:
                variables["_"] = value
                sys.stdout.write(f"{value!r}\n")
    except BaseException as error:
        return _describe(error, file)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the code may have replaced or closed them
                stream.flush()
    return None


def _describe(error: BaseException, file: str) -> str:
    """The traceback without the frames of this module."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != file:
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    except BaseException as other:  # its text is the code's too
        return f"{type(error).__name__} (its text raised {type(other).__name__})"


def _printed(most: int) -> str:
    """The start and the end of what was printed since the last call, which is then removed."""
    size = os.fstat(1).st_size
    if size <= 4 * most:
        found = os.pread(1, size, 0).decode(errors="replace")
    else:
        ends = (os.pread(1, 2 * most, 0), os.pread(1, 2 * most, size - 2 * most))
        found = "…".join(end.decode(errors="replace") for end in ends)
    os.lseek(1, 0, os.SEEK_SET)
    os.ftruncate(1, 0)
    return _cut(found, most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}\n…\n{text[-(most // 2) :]}"


def _writer(fd: int) -> TextIO:
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)


def _send(report: int, what: dict[str, Any]) -> None:
    left = json.dumps(what).encode() + b"\n"
    while left:
        left = left[os.write(report, left) :]
