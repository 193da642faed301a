"""Processes that tests start as forks are as those that Python starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drpo_cli import processes
from support.started import ENDS
from support.warm import TESTS

pytestmark = pytest.mark.skipif(not processes.LINUX, reason="processes start cold elsewhere")


def started(
    folder: Path, end: str, warm: bool, session: bool = False
) -> tuple[dict[str, Any], int, str]:
    """What a process says of its start, its exit code, and what it printed as errors."""
    cold = {} if warm else {"PYTHON_COLD": "1"}  # read at import, as far as the server knows
    inside, outside = os.pipe()
    done = subprocess.run(
        [sys.executable, "-m", "support.started", end, str(outside)],
        input="typed",
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS), "STARTED": "set", **cold},
        pass_fds=[outside],
        start_new_session=session,
    )
    os.close(outside)
    with os.fdopen(inside) as pipe:
        assert pipe.read() == "inherited"  # and nothing holds the other end
    said = json.loads(done.stdout)
    assert said.pop("warm") is warm
    assert said["arguments"].pop() == str(outside)
    return said, done.returncode, done.stderr


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_fork_starts_as_a_process_does(tmp_path: Path, session: bool, ignored: bool) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        warm, cold = (started(tmp_path, "return", warm, session) for warm in (True, False))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert warm == cold
    said, code, _ = warm
    assert code == 0 and said["parent"] == os.getpid() and said["directory"] == str(tmp_path)
    assert said["leads a session"] is session and said["variable"] == "set"
    assert (signal.SIGTERM in said["ignores"]) is ignored and said["reads"] == "typed"


@pytest.mark.parametrize("end", ENDS)
def test_a_fork_ends_as_a_process_does(tmp_path: Path, end: str) -> None:
    (_, code, errors), (_, expected, lines) = (
        started(tmp_path, end, warm) for warm in (True, False)
    )
    assert code == expected
    assert errors.splitlines()[-1:] == lines.splitlines()[-1:]
