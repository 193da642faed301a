"""The launcher shows each failure once, and a process of its own writes the page."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from drpo_cli.launch import launch_log
from drpo_cli.launch.failures import Failures
from drpo_cli.launch.monitor import Monitor, divert_output
from drpo_cli.report.writer import PageWriter
from drpo_cli.runs.events import say
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import EventRecord
from drpo_cli.runs.reader import read
from support.runs import metrics, run_folder, sample

TRACE = "Traceback (most recent call last):\n  …\nRuntimeError: connection closed by peer\n"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that has done two steps."""
    found = run_folder(tmp_path / "run", [metrics(1), metrics(2)], [sample_of(2)])
    found.versions.write_text("{}")
    (found.path / "logs").mkdir()
    return found


@pytest.fixture
def full_disk() -> list[str]:
    """A command that runs `FOLDER COMMAND…` with FOLDER on an almost full disk."""
    copy = (
        'cp -r "$1" "$1.kept"; mount -t tmpfs -o size=200k tmpfs "$1" && cp -r "$1.kept"/. "$1" '
        '&& folder=$1 && shift && "$@"; code=$?; cp -r "$folder"/. "$folder.kept"; '
        'umount "$folder"; cp -r "$folder.kept"/. "$folder"; exit $code'
    )
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*own, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    return [*own, "sh", "-c", copy, "-"]


def sample_of(step: int) -> object:
    return {**sample(step, 1.0, "46"), "rewards": {"exact_match": 1.0}, "answer": "46"}  # type: ignore[dict-item]


def test_a_users_mistake_is_shown_and_not_the_crash_it_causes(folder: RunFolder) -> None:
    failures = Failures(folder, 2)
    assert (failures.new_message(), failures.final()) == ("", None)
    folder.record_error(0, 1, TRACE)
    assert failures.new_message() == ""  # another rank may record the cause
    folder.record_error(1, 2, "the reward is broken")
    assert failures.new_message() == "error: rank 1: the reward is broken\n"
    assert (failures.new_message(), failures.final()) == ("", (2, ""))


def test_a_crash_is_shown_with_its_rank_and_log(folder: RunFolder) -> None:
    folder.record_error(0, 1, TRACE)
    message = f"error: {TRACE}rank 0 failed; its log is {folder.log(0)}\n"
    assert Failures(folder, 2).final() == (1, message)
    alone = Failures(folder, 1)
    assert (alone.new_message(), alone.new_message(), alone.final()) == (message, "", (1, ""))


def test_the_page_is_written_every_so_many_steps_one_at_a_time(folder: RunFolder) -> None:
    before = children()  # of tests that ran earlier in this process
    pages = PageWriter(folder, 5)
    for done in (2, 3, 4):
        assert pages.step(done) == ""
    assert not (folder.path / "logs" / "report.log").exists()
    pages.step(6)
    (child,) = children() - before
    pages.step(11)
    assert children() - before == {child}
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # ended, and still there to be asked
    assert os.getpriority(os.PRIO_PROCESS, child) == 19
    assert pages.finish() == "" and children() <= before
    assert "</html>" in folder.report.read_text()
    off = PageWriter(folder, 0)
    assert (off.step(1), off.step(50)) == ("", "") and children() <= before


def test_a_page_that_cannot_be_written_is_reported_once_and_the_old_one_stays(
    folder: RunFolder, full_disk: list[str]
) -> None:
    folder.report.write_text("the old one")
    code = (
        "import sys; from pathlib import Path\n"
        "from drpo_cli.report.writer import PageWriter\n"
        "from drpo_cli.runs.folder import RunFolder\n"
        "pages = PageWriter(RunFolder(Path(sys.argv[1])), 1)\n"
        "for step in (1, 2, 3, 4):\n"
        "    print(pages.step(step))\n"
        "    if pages._child: pages._child.wait()\n"
        "print(pages.finish())\n"
    )
    done = subprocess.run(
        [*full_disk, folder.path, sys.executable, "-c", code, folder.path],
        capture_output=True,
        text=True,
        check=True,
    )
    full = f"{folder.report} could not be written: the disk is full"
    assert done.stdout.splitlines() == ["", "", full, "", full]
    assert folder.report.read_text() == "the old one"
    assert not list(folder.path.glob("*.partial"))


def test_a_page_that_breaks_leaves_its_trace_in_the_log(folder: RunFolder) -> None:
    folder.report.mkdir()
    assert "report.log says why" in PageWriter(folder, 1).finish()
    assert "Traceback" in (folder.path / "logs" / "report.log").read_text()
    assert not list(folder.path.glob("*.partial"))


def test_the_monitor_writes_lines_and_prints_go_to_the_log(
    folder: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        divert_output(launch_log(folder)) as (out, err),
        Monitor(Failures(folder, 1), 0, out, err) as monitor,
    ):
        os.write(2, b"chatter of a library\n")
        say(folder, "finished after step 2", "finished")
        monitor.show("error: a word\n")
    seen = capfd.readouterr()
    lines = ["finished after step 2", f"report: {folder.report}"]
    assert (seen.out.splitlines(), seen.err) == (lines, "error: a word\n")
    assert launch_log(folder).read_text() == "chatter of a library\n"
    assert [event["text"] for event in read(folder.events, EventRecord)][-2:] == lines
    os.write(2, b"back\n")
    assert capfd.readouterr().err == "back\n"


def test_a_reader_that_goes_away_ends_neither_the_run_nor_its_page(folder: RunFolder) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        suppress(BrokenPipeError),  # of its last flush here
        os.fdopen(writer, "w") as out,
        open(os.devnull, "w") as err,
        Monitor(Failures(folder, 1), 0, out, err),
    ):
        say(folder, "finished after step 2", "finished")
    assert "</html>" in folder.report.read_text()


def children() -> set[int]:
    """The children of this process, including those that ended and were not waited for."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = int(status.parent.name), status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(rest[1]) == os.getpid():
            found.add(pid)
    return found
