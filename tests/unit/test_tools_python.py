"""Python sessions in the sandbox, on every backend that works here, and the tool `python`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.environments.toolkit.toolbox import Result, Toolbox, Tools
from drpo_cli.errors import UserError
from drpo_cli.sandbox import run as sandbox
from drpo_cli.sandbox.run import Limits
from drpo_cli.sandbox.session import Session
from drpo_cli.types import ToolCall
from support.sandboxes import PATIENT_S, Machine, machine, open_temporary, until

Start = Callable[..., Session]


@pytest.fixture(params=sandbox.BACKENDS)
def box(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A backend; nothing is left of it after the test."""
    with open_temporary() as temporary:
        found = machine(request.param, temporary)
        yield found
        assert until(lambda: found.remains() == [])


@pytest.fixture
def start(box: Machine) -> Iterator[Start]:
    """Starts sessions, whose processes have the mark of the machine, and ends them."""
    sessions = []

    def start(**limits: Any) -> Session:
        allowed = {"wall_s": PATIENT_S, "cpu_s": PATIENT_S, "memory_mib": 400, **limits}
        session = Session(Limits(**allowed), box.backend, python=box.python)
        sessions.append(session)
        assert session.run(box.marked("None")) == ("", None, None)
        return session

    yield start
    for session in sessions:
        session.close()


def test_a_session_keeps_variables_and_shows_what_happened(start: Start) -> None:
    session, most = start(), 2000
    assert session.run("import math\ndef f(x):\n    return x + 1\ny = f(1)") == ("", None, None)
    assert session.run("print('y is', y)\nf(y), math.pi > 3").output == "y is 2\n(3, True)\n"
    assert session.run("_").output == "(3, True)\n"
    raised = session.run("print('before')\n\n1 / 0", most)
    assert raised.output == "before\n"
    assert raised.error is not None
    lines = raised.error.splitlines()
    assert lines[:2] == [
        "Traceback (most recent call last):",
        '  File "<call 5>", line 3, in <module>',
    ]
    assert lines[2:3] == ["    1 / 0"] and lines[-1] == "ZeroDivisionError: division by zero"
    assert "SyntaxError" in (session.run("x =").error or "")
    assert "SystemExit: 3" in (session.run("raise SystemExit(3)").error or "")
    assert "EOFError" in (session.run("input()").error or "")
    assert "RecursionError" in (session.run("def g(): return g()\ng()", most).error or "")
    assert "UnicodeEncodeError" in (session.run("\ud800").error or "")
    shown = session.run("import os, sys\nos.system('echo one')\nprint('two', file=sys.stderr)")
    assert shown.output == "one\ntwo\n"
    assert session.run("open('file', 'w').write('text')\nopen('file').read()").output == "'text'\n"
    assert session.run("y").output == "2\n"
    assert session.run("import random\nrandom.random()").output == "0.8444218515250481\n"


def test_long_output_keeps_start_and_end(start: Start) -> None:
    session = start()
    found = session.run("print('a' * 10**6, end='b')", 100)
    assert found.output == "a" * 50 + "\n…\n" + "a" * 49 + "b"
    assert session.run("raise ValueError('c' * 10**6)", 100).error == (
        'Traceback (most recent call last):\n  File "<call 3'[:50] + "\n…\n" + "c" * 50
    )
    assert session.run("print('ä' * 150, '€')", 100).output.endswith("ä €\n")
    assert session.run("1").output == "1\n"


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("while True: pass", "timeout"),
        ("import os; os._exit(0)", "ok"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed"),
        ("import os\nfor fd in range(3, 30):\n    try: os.write(fd, b'junk\\n')\n"
         "    except OSError: pass", "killed"),
        ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "processes"),
        ("import os\nfor _ in range(8):\n    if os.fork() == 0:\n        x = bytearray(1 << 25)\n"
         "        import time; time.sleep(99)\nimport time; time.sleep(99)", "memory"),
    ],
)  # fmt: skip
def test_a_session_that_exceeds_a_limit_is_ended(start: Start, code: str, ended: str) -> None:
    own: dict[str, Any] = {"timeout": {"wall_s": 1.0}, "memory": {"memory_mib": 128}}
    session = start(**own.get(ended, {}))
    assert session.run(code).ended == ended
    assert not session.alive
    assert session.run("1").ended == "closed"


def test_code_that_reports_by_itself_does_not_answer_the_next_call(start: Start) -> None:
    session = start()
    line = json.dumps({"call": 2, "output": "mine", "error": None}) + "\n"
    forge = f"""import os
for fd in range(3, 30):
    try:
        os.write(fd, {line.encode()!r})
    except OSError:
        pass"""
    assert session.run(forge) == ("mine", None, None)
    assert session.run("2").ended == "killed"


def test_memory_that_is_refused_leaves_the_session(start: Start) -> None:
    session = start()
    assert "MemoryError" in (session.run("x = bytearray(1 << 32)").error or "")
    assert session.run("1").output == "1\n"


def test_a_fork_that_returns_does_not_answer(start: Start) -> None:
    session = start()
    code = "import os\npid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\npid > 0"
    assert session.run(code).output.count("True") == 1
    assert session.run("2").output == "2\n"


def test_a_session_is_closed_while_code_runs(start: Start, box: Machine) -> None:
    session = start()
    closer = threading.Timer(0.2, session.close)
    closer.start()
    assert session.run("import subprocess\nwhile True: subprocess.run(['true'])").ended == "closed"
    closer.join()
    assert until(lambda: box.alive() == [])


def test_a_session_outlives_the_thread_that_started_it(start: Start) -> None:
    found: list[Session] = []
    thread = threading.Thread(target=lambda: found.append(start()))
    thread.start()
    thread.join()
    assert found[0].run("3").output == "3\n"
    assert found[0].run("import time; time.sleep(0.3); 4").output == "4\n"


def test_nothing_is_left_of_a_caller_that_is_killed(box: Machine) -> None:
    code = f"""
from drpo_cli.sandbox.session import Session
session = Session(backend={box.backend!r}, python={box.python!r})
session.run({box.marked("import subprocess; subprocess.Popen(['sleep', '99'])")!r})
print("started", flush=True)
session.run("import time; time.sleep(99)")
"""
    root = Path(sandbox.__file__).parents[2]
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE)
    assert caller.stdout is not None and caller.stdout.readline() == b"started\n"
    assert box.alive()
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert until(lambda: box.remains() == [])


@pytest.fixture
def tools() -> Iterator[Tools]:
    """The tool with small limits; outside bubblewrap it would need another Python as root."""
    try:
        sandbox.find_backend("auto")
    except UserError as error:
        pytest.skip(str(error))
    found = Toolbox(["python: seconds=1 memory_mib=256"], Path()).open()
    yield found
    found.close()


def call(tools: Tools, code: str) -> Result:
    return asyncio.run(tools.call(ToolCall("python", {"code": code})))


def test_the_tool_tells_the_model_what_became_of_its_session(tools: Tools) -> None:
    assert call(tools, "x = 3") == Result("(no output)")
    assert call(tools, "x * 7").text == "21\n"
    raised = call(tools, "print('a')\n1 / 0")
    assert raised.failed
    assert raised.text.startswith("a\nTraceback") and raised.text.endswith("division by zero")
    late = call(tools, "while True: pass")
    assert late.text == (
        "The code was stopped: it ran for longer than 1 s. Its variables are lost. "
        "The next call starts with a new session."
    )
    assert "NameError" in call(tools, "x").text
    assert "it ended its own interpreter" in call(tools, "import os; os._exit(1)").text
    assert tools.counts == {"tool_calls": 6, "tool_errors": 4, "tool_errors/python": 4}


def test_a_session_that_ends_between_calls_is_replaced_and_says_so(tools: Tools) -> None:
    kill = "import os, threading, signal\nme = os.getpid()\n"
    later = "threading.Timer(0.2, lambda: os.kill(me, signal.SIGKILL)).start()"
    assert not call(tools, kill + later).failed
    session: Any = tools._opened["python"]
    assert until(lambda: not session._function._session.alive)
    assert call(tools, "1").text == (
        "(The session had ended; this is a new one, without the variables of before.)\n1\n"
    )


@pytest.mark.usefixtures("tools")
def test_a_call_does_not_block_the_event_loop_and_ends_with_the_episode() -> None:
    other = Toolbox(["python: seconds=60"], Path()).open()
    assert call(other, "1").text == "1\n"

    async def close_while_it_runs() -> Result:
        running = asyncio.create_task(other.call(ToolCall("python", {"code": "while True: pass"})))
        await asyncio.sleep(0.1)
        other.close()
        return await running

    for result in (asyncio.run(close_while_it_runs()), call(other, "1")):
        assert result.text.startswith("The code was stopped: the episode has ended.")


@pytest.mark.usefixtures("tools")
def test_a_call_that_nobody_waits_for_is_ended() -> None:
    patient = Toolbox(["python: seconds=60"], Path()).open()

    async def call_and_give_up() -> None:
        async with asyncio.timeout(0.1):
            await patient.call(ToolCall("python", {"code": "while True: pass"}))

    assert call(patient, "x = 1").text == "(no output)"
    with pytest.raises(TimeoutError):
        asyncio.run(call_and_give_up())
    assert call(patient, "2").text.endswith("variables of before.)\n2\n")
    patient.close()


def test_without_a_sandbox_the_toolbox_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() != 0:
        pytest.skip("another user has the plain sandbox")
    monkeypatch.setattr(os, "defpath", "/nowhere")
    sandbox.find_backend.cache_clear()
    with pytest.raises(UserError, match="no sandbox works here"):
        Toolbox(["python"], Path())
    assert len(Toolbox(["python: seconds=5"], Path(), start=False).schemas) == 1
    sandbox.find_backend.cache_clear()
