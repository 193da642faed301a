"""The sandbox against hostile programs, on every backend that works here."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drpo_cli.errors import UserError
from drpo_cli.sandbox import cgroup, landlock
from drpo_cli.sandbox import run as sandbox
from drpo_cli.sandbox.calls import build_call_filter
from support.sandboxes import HOSTILE, LIMITS, Machine, machine, until

SHORT_S = 3.0
ENDS = {  # the program: how it may end
    "fork_bomb": {"processes"},
    "memory_bomb": {"memory"},
    "memory_family": {"memory"},
    "disk_filler": {"failed"},
    "disk_sprinkler": {"failed", "disk"},
    "daemoniser": {"ok"},
    "crash_read": {"killed"},
    "crash_abort": {"killed"},
    "crash_recursion": {"killed", "memory"},
    "printer": {"output"},
    "reporter": {"output"},
    "kill_group": {"killed"},
    "permission_taker": {"ok", "disk"},
    "output_closer": {"ok"},
    "trace_parent": {"failed"},
}
TIMED_OUT = {"sleeper", "signal_ignorer", "spinner", "kill_everyone"}
TOLD = {"file_reader", "file_writer", "kill_process", "network_caller", "secret_reader"}


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder for this test that other users can read."""
    folder = Path(tempfile.mkdtemp(prefix="drpo-test-"))
    folder.chmod(0o755)
    (folder / "temporary").mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    monkeypatch.setenv("TMPDIR", str(folder / "temporary"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=sandbox.BACKENDS)
def box(request: pytest.FixtureRequest, open_folder: Path) -> Iterator[Machine]:
    """A backend. After the test nothing is left, and the next program runs."""
    found = machine(request.param, open_folder / "temporary")
    yield found
    assert found.remains() == []
    assert found.run("print('well')").stdout == "well\n"
    assert found.remains() == []


def test_every_program_of_the_corpus_is_run() -> None:
    programs = {path.stem for path in HOSTILE.glob("*.py")} - {"__init__"}
    assert programs == ENDS.keys() | TIMED_OUT | TOLD | {"kill_parent"}


@pytest.mark.parametrize("name", ENDS)
def test_hostile_program_ends_for_its_reason(box: Machine, name: str) -> None:
    result = box.hostile(name)
    assert result.reason in ENDS[name], result


@pytest.mark.parametrize("name", sorted(TIMED_OUT))
def test_endless_program_is_ended_in_time(box: Machine, name: str) -> None:
    if name == "kill_everyone" and not box.stops["other_processes"] and build_call_filter() is None:
        pytest.skip("would end the tests too")
    assert box.hostile(name, wall_s=SHORT_S).reason == "timeout"


def test_processor_time_of_all_processes_is_counted(box: Machine) -> None:
    program = (HOSTILE / "spinner.py").read_text()
    limits = sandbox.Limits(wall_s=LIMITS.wall_s, cpu_s=1)
    assert box.run(program, "", limits).reason == "timeout"


def test_killing_the_first_process_is_a_result_too(box: Machine) -> None:
    if not box.stops["other_processes"]:
        pytest.skip("reaches the supervisor's other children")
    assert box.hostile("kill_parent", wall_s=SHORT_S).reason in {"killed", "timeout"}


def test_output_is_cut_at_the_limit(box: Machine) -> None:
    result = box.hostile("printer")
    assert result.stdout == "x" * (LIMITS.output_kib << 10)


def test_network(box: Machine) -> None:
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        stream.bind(("127.0.0.1", 0))
        stream.listen()
        port = stream.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))
        result = box.hostile("network_caller", str(port))
        assert result.reason == "ok"
        assert _was_called(stream.accept, stream) is not box.stops["network"]
        assert _was_called(lambda: datagrams.recv(9), datagrams) is not box.stops["network"]


def _was_called(take: object, server: socket.socket) -> bool:
    server.setblocking(False)
    assert callable(take)
    try:
        take()
    except BlockingIOError:
        return False
    return True


def test_reading_outside_its_folder(box: Machine, open_folder: Path) -> None:
    secret = open_folder / "secret"
    secret.write_text("the answer")
    result = box.hostile("file_reader", str(secret))
    assert ("the answer" in result.stdout) is not box.stops["reading"]


def test_private_files_are_safe_from_another_user(box: Machine, open_folder: Path) -> None:
    if box.backend != "plain" or os.getuid() != 0:
        pytest.skip("the program's user is ours, or it sees no files at all")
    secret = open_folder / "secret"
    secret.write_text("the answer")
    secret.chmod(0o600)
    assert "PermissionError" in box.hostile("file_reader", str(secret)).stderr


def test_writing_outside_its_folder(box: Machine, open_folder: Path) -> None:
    shared = open_folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    box.hostile("file_writer", str(shared / "file"))
    assert (shared / "file").exists() is not box.stops["writing"]


def test_environment_is_built_from_nothing(box: Machine) -> None:
    keeper = subprocess.Popen(["sleep", "60"], env={"API_KEY": "hunter2"})
    try:
        result = box.hostile("secret_reader")
    finally:
        keeper.kill()
        keeper.wait()
    assert "HOME" in result.stdout
    assert ("hunter2" in result.stdout) is not box.stops["environments"]


def test_signals_to_others(box: Machine) -> None:
    victim = subprocess.Popen(["sleep", "60"])
    box.hostile("kill_process", str(victim.pid))
    assert (victim.poll() is None) is box.stops["other_processes"]
    victim.kill()
    victim.wait()


def test_nothing_survives_a_caller_that_is_killed(box: Machine) -> None:
    caller = box.caller("sleeper")
    assert until(box.alive)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    assert until(lambda: box.remains() == []), box.remains()


def test_nothing_runs_on_when_the_supervisor_is_killed(box: Machine) -> None:
    """Its folder stays: nobody is left to remove it."""
    if box.backend == "plain":
        pytest.skip("without a PID namespace, what has left its parent would run on")
    caller = box.caller("signal_ignorer")
    assert until(box.alive)
    supervisor = int(subprocess.check_output(["pgrep", "-P", str(caller.pid)]))
    os.kill(supervisor, signal.SIGKILL)
    assert until(lambda: box.alive() == [])
    assert caller.wait() == 1
    for folder in box.temporary.iterdir():
        shutil.rmtree(folder)


def test_program_sees_an_empty_folder_and_its_input(box: Machine) -> None:
    program = """
import os, sys, tempfile
os.write(3, sys.stdin.read().encode())
print(os.listdir(), os.getcwd() == os.environ["HOME"] == tempfile.gettempdir())
open("file", "w").write("x")
print("é", file=sys.stderr)
sys.exit(7)
"""
    result = box.run(program, "grüße\n")
    assert result == sandbox.Result("failed", 7, "[] True\n", "é\n", "grüße\n")


@pytest.mark.parametrize("program", ["(\0", "'\ud800'", "def", "raise SystemExit(3)"])
def test_what_is_no_program_fails(box: Machine, program: str) -> None:
    assert box.run(program).reason == "failed"


def test_sets_come_in_one_order(box: Machine) -> None:
    program = "print({str(i) for i in range(50)})"
    assert box.run(program).stdout == box.run(program).stdout


def test_several_at_a_time(box: Machine) -> None:
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda i: box.run(f"print({i})").stdout, range(8)))
    assert results == [f"{i}\n" for i in range(8)]


def test_root_has_to_name_the_plain_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bubblewrap; another user gets it by itself."""

    def run(program: str, stdin: str, limits: object, backend: str, *rest: object) -> object:
        if backend == "bubblewrap":
            raise RuntimeError("not here")
        return sandbox.Result("ok", 0, "ready\n", "", "")

    monkeypatch.setattr(sandbox, "_supervise", run)
    find = sandbox.find_backend.__wrapped__
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(UserError, match=r'bubblewrap: not here.*backend = "plain"'):
        find("auto")
    assert find("plain") == "plain"
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert find("auto") == "plain"


def test_auto_takes_the_first_backend_that_works() -> None:
    first = sandbox.find_backend("auto")
    for name in sandbox.BACKENDS[: sandbox.BACKENDS.index(first)]:
        with pytest.raises(UserError, match=name):
            sandbox.find_backend(name)
    assert sandbox.run_program("print(1)").stdout == "1\n"


@pytest.mark.skipif(sys.platform != "linux", reason="what is stopped elsewhere is not tested")
def test_what_each_backend_stops() -> None:
    """The table of docs/sandbox.md; the tests above hold every line of it."""
    root, locked = os.getuid() == 0, landlock.version()
    assert build_call_filter() is not None, "pyseccomp or libseccomp.so.2 is missing"
    assert set(sandbox.stops("bubblewrap").values()) == {True}
    assert sandbox.stops("plain") == {
        "network": True,
        "sockets": True,
        "reading": locked > 0,
        "writing": locked > 0,
        "environments": root or locked > 0,
        "other_processes": root or locked >= landlock.SIGNALS_FROM,
        "memory": locked > 0 or cgroup.available(),
    }


def test_installed_packages_are_there_when_asked_for() -> None:
    program = "import numpy; print(numpy.arange(3).sum())"
    limits = sandbox.Limits(wall_s=60, cpu_s=60, memory_mib=2048)
    assert sandbox.run_program(program, limits=limits).reason == "failed"
    assert sandbox.run_program(program, limits=limits, packages=True).stdout == "3\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root is refused")
def test_nothing_runs_as_root_without_bubblewrap(open_folder: Path) -> None:
    (open_folder / "temporary").chmod(0o700)
    with pytest.raises(RuntimeError, match="would run as root"):
        sandbox._supervise("print(1)", "", LIMITS, "plain", False, "/usr/bin/python3")
