"""Attempts to get out of the sandbox: every backend, for root and for another user."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.sandbox import cgroup, landlock
from drpo_cli.sandbox import run as sandbox
from drpo_cli.sandbox.calls import build_call_filter
from support.escapes import ESCAPES, HOLDS, LEAVES, PRELUDE, attempts

NOBODY = 65534
PLACES = [(backend, uid) for backend in sandbox.BACKENDS for uid in (0, NOBODY)]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or os.getuid() != 0,
    reason="takes system calls by number, and another user",
)


def as_user(uid: int, work: Callable[[], Any]) -> Any:
    """What `work` gives in a process of this user; fails where it raises."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            said = json.dumps(work())
        except BaseException:
            said = json.dumps({"error": traceback.format_exc()})
        with open(write, "w") as file:
            file.write(said)
        os._exit(0)
    os.close(write)
    with open(read) as file:
        found = json.loads(file.read())
    os.waitpid(child, 0)
    assert not isinstance(found, dict) or "error" not in found, found
    return found


class Place:
    """A backend for one user; the interpreter is the system's, which everybody can read."""

    def __init__(self, backend: str, uid: int, folder: Path) -> None:
        self.backend, self.uid, self.folder = backend, uid, folder
        self.temporary = folder / "temporary"
        os.chown(self.temporary, uid, uid)
        (folder / "shared").mkdir(mode=0o777)
        (folder / "shared").chmod(0o777)
        (folder / "secret").write_text("the answer")
        os.chown(folder / "secret", uid, uid)
        for own_files in (True, False):  # kept: another user cannot import pyseccomp here
            build_call_filter(own_files)
        command = [self.python, "-c", "import time; time.sleep(600)"]
        self.victim = subprocess.Popen(command, env={"KEY": "hunter2"}, user=uid, group=uid)
        self.stops = as_user(uid, self._stops)

    def run(self, program: str, **limits: Any) -> sandbox.Result:
        self._old_groups = self._groups()  # tests beside these may kill their supervisors
        given = {
            "secret": str(self.folder / "secret"),
            "shared": str(self.folder / "shared"),
            "victim": self.victim.pid,
        }
        asked = sandbox.Limits(**{"wall_s": 60.0, "cpu_s": 60.0} | limits)
        found = as_user(self.uid, lambda: self._run(program, json.dumps(given), asked))
        return sandbox.Result(**found)

    def _stops(self) -> Any:
        tempfile.tempdir = str(self.temporary)  # the session's may be closed to this user
        return sandbox.stops(self.backend)

    def _run(self, program: str, stdin: str, limits: sandbox.Limits) -> dict[str, Any]:
        tempfile.tempdir = str(self.temporary)
        sys.executable = self.python
        return asdict(sandbox._supervise(program, stdin, limits, self.backend, False, self.python))

    @property
    def python(self) -> str:
        found = shutil.which("python3", path="/usr/bin:/usr/local/bin")
        assert found is not None
        return found

    def remains(self) -> list[str]:
        left = [Path(folder, "drpo-left") for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run")]
        groups = [path for path in self._groups() if path not in self._old_groups]
        return [str(path) for path in [*self.temporary.iterdir(), *left, *groups] if path.exists()]

    def _groups(self) -> list[Path]:
        """Cgroups of supervisors that have ended; those of others' tests may still run."""
        found = cgroup.groups()
        return [one for one in found if not Path("/proc", one.name.rpartition("-")[2]).exists()]


def promises(backend: str, uid: int) -> bool:
    """Whether the machine has what the backend needs for all its promises."""
    if backend == "plain":
        return landlock.version() >= landlock.SIGNALS_FROM
    command = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    if shutil.which("bwrap") is None:
        return False
    return subprocess.run(command, user=uid, group=uid, check=False).returncode == 0


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: f"{place[0]}-{place[1]}")
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="drpo-test-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "temporary").mkdir(mode=0o755)
    backend, uid = request.param
    found = Place(backend, uid, folder)
    try:
        if not promises(backend, uid):
            pytest.skip(f"{backend} promises less here")
        assert found.run("print(1)").stdout == "1\n"
        yield found
    finally:
        found.victim.kill()
        found.victim.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def escaped(place: Place) -> dict[str, str]:
    """What each attempt that got through printed."""
    result = place.run(attempts(), wall_s=60.0)
    *found, last = map(json.loads, result.stdout.splitlines() or ['"nothing"'])
    assert last == "done", result
    return dict(found)


@pytest.mark.parametrize("name", ESCAPES)
def test_attempt_is_refused(escaped: dict[str, str], name: str) -> None:
    assert name not in escaped, escaped[name]


@pytest.mark.parametrize("name", HOLDS)
def test_nothing_is_taken_beyond_the_limits(place: Place, name: str) -> None:
    result = place.run(PRELUDE + HOLDS[name], wall_s=20.0)
    assert "held" not in result.stdout
    assert list((place.folder / "shared").iterdir()) == []
    assert place.remains() == []


@pytest.mark.parametrize("name", LEAVES)
def test_nothing_is_left(place: Place, name: str) -> None:
    place.run(PRELUDE + LEAVES[name], wall_s=10.0)
    assert place.remains() == []
    assert own_processes(place.temporary) == []


def own_processes(folder: Path) -> list[str]:
    """Processes whose command names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_every_promise_is_made_here(place: Place) -> None:
    """What the tests above hold."""
    assert [what for what, stopped in place.stops.items() if not stopped] == []


def test_promises_shrink_with_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(sandbox, "build_call_filter", lambda: None)
    monkeypatch.setattr(landlock, "version", lambda: 0)
    monkeypatch.setattr(cgroup, "available", lambda: False)
    assert set(sandbox.stops("plain").values()) == {False}
    assert not sandbox.stops("bubblewrap")["memory"]


needs_group = pytest.mark.skipif(not cgroup.available(), reason="no cgroup can be made here")


@needs_group
def test_a_memory_group_counts_what_no_process_holds() -> None:
    """Files of a disk in memory, without the filter and the limits of a sandbox."""
    group = cgroup.make(64, 8)
    assert group is not None
    child = os.fork()
    if child == 0:
        group.join()
        with open("/dev/shm/drpo-test-large", "wb") as file:
            for _ in range(300):
                file.write(b"x" * (1 << 20))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    exceeded = group.exceeded()
    Path("/dev/shm/drpo-test-large").unlink()
    group.remove()
    assert os.waitstatus_to_exitcode(status) == -9
    assert exceeded
    assert f"drpo-sandbox-{os.getpid()}" not in [path.name for path in cgroup.groups()]


@needs_group
def test_a_group_holds_no_more_processes_than_allowed() -> None:
    """Not for root either, to whom RLIMIT_NPROC does not apply."""
    if next(cgroup._parents("pids"), None) is None:
        pytest.skip("the controller pids is not ours to use here")
    group = cgroup.make(64, 8)
    assert group is not None
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        group.join()
        started = 0
        with contextlib.suppress(BlockingIOError):
            while started < 50:
                if os.fork() == 0:
                    os.read(read, 1)  # until this process has ended
                    os._exit(0)
                started += 1
        os._exit(started)
    status = os.waitpid(child, 0)[1]
    os.write(write, b"x" * 50)
    group.remove()
    assert os.waitstatus_to_exitcode(status) == 7  # and itself
    assert f"drpo-sandbox-{os.getpid()}" not in [path.name for path in cgroup.groups()]


def test_a_group_of_version_2_is_made_where_it_is_delegated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On folders that stand for cgroups: this kernel may have version 1 only."""
    lines = [Path("/proc/self/cgroup").read_text()]
    monkeypatch.setattr(cgroup, "_ROOT", tmp_path)
    monkeypatch.setattr(Path, "read_text", lambda path: lines[0] if path == OWN else READ(path))
    lines[0] = "0::/user/app/own\n"
    (tmp_path / "user/app/own").mkdir(parents=True)
    (tmp_path / "user/app/cgroup.subtree_control").write_text("cpu memory\n")
    (tmp_path / "user/app/own/cgroup.subtree_control").write_text("\n")
    assert list(cgroup._parents("memory")) == [tmp_path / "user/app"]
    assert list(cgroup._parents("pids")) == []
    (tmp_path / "user/app/cgroup.subtree_control").write_text("cpu memory pids\n")
    assert list(cgroup._parents("pids")) == [tmp_path / "user/app"]


OWN, READ = Path("/proc/self/cgroup"), Path.read_text
