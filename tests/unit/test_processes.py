"""Children are started, waited for and ended in one way."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from drpo_cli import processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(3600)"]
DEAF = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(3600)\n"
)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_a_child_has_its_own_session_environment_and_log(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['A'], os.getsid(0) == os.getpid()); sys.exit(7)"
    log = tmp_path / "log"
    log.write_text("before\n")
    child = processes.start([sys.executable, "-c", code], log=log, environment={"A": "b"})
    assert processes.wait(child, 60) == 7
    assert log.read_text() == "before\nb True\n"
    assert "A" not in os.environ


def test_a_child_keeps_the_descriptors_that_it_inherits() -> None:
    reader, writer = os.pipe()
    code = f"import os; os.write({writer}, b'here')"
    child = processes.start([sys.executable, "-c", code], inherit=[writer])
    os.close(writer)
    assert os.read(reader, 10) == b"here" and child.wait() == 0
    os.close(reader)


def test_a_wait_ends_before_the_child_and_a_kill_takes_its_group(tmp_path: Path) -> None:
    child = processes.start([sys.executable, "-c", DEAF], log=tmp_path / "log")
    while not (tmp_path / "log").read_text().endswith("\n"):
        assert processes.wait(child, 0.02) is None
    grandchild = int((tmp_path / "log").read_text())
    processes.kill_group(child.pid)
    assert child.wait() == -signal.SIGKILL and gone(grandchild)


def test_run_returns_the_exit_code(tmp_path: Path) -> None:
    command = processes.python("json.tool", tmp_path / "absent")
    assert processes.run(command, log=tmp_path / "log") in (1, 2)
    assert "absent" in (tmp_path / "log").read_text()


def test_capture_ends_a_command_that_ignores_sigterm_and_what_it_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "_GRACE_S", 0.2)
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    done = processes.capture([sys.executable, "-c", code], seconds=60)
    assert done == processes.Captured("out\n", "err\n", 3)
    stuck = processes.capture([sys.executable, "-c", DEAF], seconds=2)
    assert stuck.code is None and gone(int(stuck.out))


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    inner = (
        "import time; from drpo_cli import processes\n"
        "processes.die_with_parent(); print('tied', flush=True); time.sleep(3600)\n"
    )
    outer = (
        "import sys; from pathlib import Path; from drpo_cli import processes\n"
        f"child = processes.start([sys.executable, '-c', {inner!r}], log=Path(sys.argv[1]))\n"
        "print(child.pid, flush=True); child.wait()\n"
    )
    log, pid = tmp_path / "log", tmp_path / "pid"
    parent = processes.start([sys.executable, "-c", outer, str(log)], log=pid)
    while not (log.exists() and log.read_text() == "tied\n"):
        assert processes.wait(parent, 0.02) is None
    parent.kill()
    parent.wait()
    assert gone(int(pid.read_text()))


def test_signal_handlers_are_restored() -> None:
    before, heard = signal.getsignal(signal.SIGUSR1), []
    with processes.handle_signals([signal.SIGUSR1], lambda number, _: heard.append(number)):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert heard == [signal.SIGUSR1] and signal.getsignal(signal.SIGUSR1) == before


def test_a_library_that_leaves_handlers_behind_is_cleaned_up() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with processes.handle_signals([signal.SIGUSR1]):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_fork_leads_a_session_and_returns_its_exit_code() -> None:
    code = (
        "import os; from drpo_cli import processes\n"
        "child = processes.fork(lambda: os._exit(5 if os.getsid(0) == os.getpid() else 6))\n"
        "child.join(); print(child.exitcode)\n"
    )
    done = processes.capture([sys.executable, "-c", code], seconds=60)
    assert (done.out, done.code) == ("5\n", 0), done.err


def test_the_fork_server_imports_once_and_has_its_own_environment(tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(
        "import os\n\n\ndef main():\n    os._exit(int(os.environ['N']))\n"
    )
    code = (
        "from drpo_cli import processes\n"
        "import asked, os\n"
        "context = processes.fork_server(['asked', 'no_such_module'], {'N': '9'})\n"
        "assert 'N' not in os.environ\n"
        "child = context.Process(target=asked.main); child.start(); child.join()\n"
        "print(child.exitcode)\n"
    )
    program = tmp_path / "program.py"
    program.write_text(
        "if __name__ == '__main__':\n" + "".join(f"    {x}\n" for x in code.splitlines())
    )
    done = processes.capture([sys.executable, str(program)], seconds=60)
    assert (done.out, done.code) == ("9\n", 0), done.err
