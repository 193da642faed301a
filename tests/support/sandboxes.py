"""The sandbox's backends on this machine, and what their programs leave behind."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drpo_cli.errors import UserError
from drpo_cli.sandbox import run as sandbox

HOSTILE = Path(__file__).with_name("hostile")
PATIENT_S = 60.0
LIMITS = sandbox.Limits(wall_s=PATIENT_S, cpu_s=PATIENT_S, memory_mib=400)


@contextmanager
def open_temporary() -> Iterator[Path]:
    """A temporary folder that other users can read, in place of this process's own."""
    kept, folder = tempfile.tempdir, Path(tempfile.mkdtemp(prefix="drpo-test-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "temporary").mkdir(mode=0o755)
    tempfile.tempdir = str(folder / "temporary")
    yield folder / "temporary"
    tempfile.tempdir = kept
    shutil.rmtree(folder)


class Machine:
    """One backend, and a mark that every process of its programs has."""

    def __init__(self, backend: str, python: str | None, temporary: Path) -> None:
        self.backend, self.temporary = backend, temporary
        self.stops = sandbox.stops(backend)
        self.python = python
        self._mark = f"m{secrets.token_hex(6)}"

    def marked(self, program: str) -> str:
        """The program, which first sets its name to the mark; its children inherit it."""
        return f"import ctypes; ctypes.CDLL(None).prctl(15, {self._mark.encode()!r})\n{program}"

    def run(self, program: str, stdin: str = "", limits: sandbox.Limits = LIMITS) -> sandbox.Result:
        return sandbox._supervise(
            self.marked(program), stdin, limits, self.backend, False, self.python
        )

    def hostile(self, name: str, stdin: str = "", wall_s: float = PATIENT_S) -> sandbox.Result:
        """Runs a program of the corpus."""
        limits = sandbox.Limits(wall_s=wall_s, cpu_s=PATIENT_S, memory_mib=400)
        return self.run((HOSTILE / f"{name}.py").read_text(), stdin, limits)

    def caller(self, name: str) -> subprocess.Popen[bytes]:
        """A process that runs a program of the corpus, as a grader's worker does."""
        program = self.marked((HOSTILE / f"{name}.py").read_text())
        asked = f"{program!r}, '', s.Limits(wall_s=60), {self.backend!r}, False, {self.python!r}"
        code = f"from drpo_cli.sandbox import run as s\ns._supervise({asked})"
        root = Path(sandbox.__file__).parents[2]
        return subprocess.Popen([sys.executable, "-c", code], cwd=root)

    def alive(self) -> list[int]:
        """Processes of this machine with the mark, in any namespace."""
        found = []
        for path in Path("/proc").glob("[0-9]*/comm"):
            try:
                if path.read_text().strip() == self._mark:
                    found.append(int(path.parent.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def remains(self) -> list[str]:
        """What is left in the temporary folder, and the processes that are left."""
        return [*map(str, self.temporary.iterdir()), *map(str, self.alive())]


def machine(backend: str, temporary: Path) -> Machine:
    """Skips the test where the backend does not work here, with the reason."""
    if sys.platform != "linux":
        pytest.skip("looks for what is left in /proc")
    python = None
    if backend == "plain" and os.getuid() == 0:
        # Ours may lie in root's home, where another user cannot read it.
        python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
        if python is None:
            pytest.skip("plain, as root: there is no Python that other users can read")
    else:
        try:
            sandbox.find_backend(backend)
        except UserError as error:
            pytest.skip(str(error))
    return Machine(backend, python, temporary)


def until(condition: object, patience_s: float = PATIENT_S) -> bool:
    """Whether the condition, a function without arguments, came true in time."""
    assert callable(condition)
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
