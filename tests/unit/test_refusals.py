"""The file system says no: one message with where, what and what to do; nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.errors import UserError, os_message, writing
from drpo_cli.runs.folder import RunFolder, write_whole
from drpo_cli.runs.locks import Holder
from drpo_cli.runs.records import Records
from drpo_cli.step.checkpoint import Checkpoints
from support import refusals
from support.models import tiny_model, tokenizer, world
from support.runs import metrics, run_folder
from support.training import open_trainer

SPEC = """
[run]
name = "small"
steps = 2
[model]
path = "model"
dtype = "float32"
[[data]]
type = "arithmetic"
[rollout]
engine = "transformers"
prompts_per_step = 4
samples_per_prompt = 4
max_new_tokens = 4
context_length = 32
[[reward]]
type = "length"
limit = 8
soft_limit = 1
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each verb did in each place."""
    base = tmp_path_factory.mktemp("refusals")
    mount = [*refusals.COMMAND, "mount", "-t", "tmpfs", "x", str(base)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    model, spec = tiny_model(base / "model", **small), base / "run.toml"
    spec.write_text(SPEC)
    run = run_folder(base / "runs" / "small", [metrics(1), metrics(2)])
    with world() as here:
        store = Checkpoints(run.checkpoints, 3, here)
        store.save(2, open_trainer(model, here), tokenizer(), {"dtype": "float32"})
    (base / "places").mkdir()
    command = [*refusals.COMMAND, sys.executable, "-m", "support.refusals"]
    path = os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, *map(str, (base / "places", run.path, spec, base / "out.json"))],
        env={**os.environ, "PYTHONPATH": path},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((base / "out.json").read_text())
    return found


CASES = [
    *(f"{kind} {verb}" for kind in refusals.PLACES for verb in refusals.VERBS),
    *(f"read_only_run {verb}" for verb in ("resume", "export", "report")),
]


@pytest.mark.parametrize("case", [case for case in CASES if case not in refusals.FINE])
def test_one_message_and_nothing_half_written(tried: dict[str, Any], case: str) -> None:
    code, said, left = tried[case]
    errors = [line for line in said.splitlines() if not line.startswith("warning: ")]
    assert code == 2 and len(errors) == 1, said
    assert errors[0].startswith("error: ") and "; " in errors[0]
    assert left == []


def test_a_read_only_run_is_read(tried: dict[str, Any]) -> None:
    for case in ("elsewhere", "read"):
        assert tried[f"read_only_run {case}"][:1] == [0]


def test_a_write_names_its_file(tmp_path: Path) -> None:
    full = tmp_path / "metrics.jsonl"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="metrics") as caught:
        Records(full).append({"step": 1})
    assert os_message(caught.value, "elsewhere", "try again") == (
        f"{full}: the disk is full; free some space, then try again"
    )


def limited(bytes_: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may be larger than 1,000 bytes."""
    yield from limited(1000)


def test_records_are_appended_whole_or_not_at_all(tmp_path: Path, small_files: None) -> None:
    records = Records(tmp_path / "samples.jsonl")
    records.append({"step": 1, "text": "a" * 500})
    whole = records.path.read_bytes()
    with pytest.raises(OSError, match="samples"):
        records.extend({"step": step, "text": "b" * 300} for step in (2, 3))
    assert records.path.read_bytes() == whole


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, small_files: None) -> None:
    for text, limit in (("old", False), ("new" * 1000, True)):
        with pytest.raises(OSError, match="spec") if limit else nullcontext():
            write_whole(tmp_path / "spec.toml", text)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """torch's writer of zip files puts an error of its own in the place of the system's."""
    with world() as here:
        trainer = open_trainer(tiny_model(tmp_path / "model"), here)
        store = Checkpoints(tmp_path / "checkpoints", 3, here)
        for bytes_ in (1, 100, 1000, 100_000, 1_000_000):
            for _ in limited(bytes_):
                with pytest.raises(OSError, match="step-000001") as caught:
                    store.save(1, trainer, tokenizer(), {"dtype": "float32"})
            assert "larger than allowed" in str(os_message(caught.value, "", ""))
            assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_errno_is_one_message_or_a_bug(number: int) -> None:
    named = os_message(OSError(number, os.strerror(number), "some/path"), "here", "try again")
    bare = os_message(OSError(number, os.strerror(number)), "here", "try again")
    for text, place in ((named, "some/path"), (bare, "here")):
        assert text is None or re.fullmatch(rf"{place}: [^;]+; .+, then try again", text)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE):
        assert named and bare
    if number in (errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG):
        assert named and bare is None


def test_an_error_of_a_rust_library_is_the_systems(tmp_path: Path) -> None:
    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OSError, match="No space left") as caught, writing(tmp_path / "model"):
        raise RuntimeError(text)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "model"))
    with pytest.raises(RuntimeError, match="a bug"), writing(tmp_path):
        raise RuntimeError("a bug")


HELD = """
import fcntl, json, os, sys, time
from pathlib import Path
def no_locks(*_):
    raise OSError(int(sys.argv[2]), "no locks")
fcntl.flock = no_locks
from drpo_cli.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.readline()
"""


def refuse(run: RunFolder, match: str) -> None:
    with pytest.raises(UserError, match=match), run.lock():
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_a_file_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HELD, str(tmp_path), str(number)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    monkeypatch.setattr("fcntl.flock", no_locks)
    run = RunFolder(tmp_path)
    with start() as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        assert run.in_use()
        refuse(run, f"process {other.pid} on {socket.gethostname()}")
        other.kill()
        other.wait()
        assert not run.in_use()
        with run.lock():  # left by a dead process
            assert run.in_use()
    assert "this file system has no locks" in capsys.readouterr().err
    assert not run.in_use() and [path.name for path in tmp_path.iterdir()] == [".lock"]
    foreign = Holder("another-machine", 1, 0.0)
    (tmp_path / ".lock.holder").write_text(json.dumps(foreign))
    refuse(run, r"on another-machine.* delete .*\.lock\.holder")


def test_a_lock_names_its_holder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.lock():
        refuse(run, f"process {os.getpid()} on {socket.gethostname()}")
