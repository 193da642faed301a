"""Trackers follow a run's records, and errors of one stay with it; tests/e2e has the run's side."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.errors import UserError
from drpo_cli.launch import launcher as launch
from drpo_cli.launch.follower import State
from drpo_cli.launch.tracking import follow_run
from drpo_cli.plan import describe, make_plan
from drpo_cli.runs.alerts import alerts
from drpo_cli.runs.folder import RunFolder
from drpo_cli.spec import dump, load
from drpo_cli.trackers import flatten, list_settings, wandb
from support.command import PATIENCE, drpo, records
from support.specs import SMALLEST, plugin_folder, problem, write
from support.trackers import run_folder, table

METRICS = Path(__file__).parents[1] / "data" / "metrics-collapsed.jsonl"


def notes(folder: Path, name: str) -> list[dict[str, Any]]:
    return records(folder / "trackers" / name / "notes.jsonl")


def logged(folder: Path, name: str) -> list[int]:
    return [note["step"] for note in notes(folder, name) if note["what"] == "log"]


def test_what_a_tracker_receives(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", table("Notes"), METRICS)
    done = drpo("track", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Notes has all 33 steps\n"
    opened, *told, closed = notes(folder, "Notes")
    assert opened == {"what": "opened", "name": "a", "id": None, "steps": 32}
    assert closed == {"what": "closed"}
    assert logged(folder, "Notes") == list(range(33))
    assert told[1]["values"] == {k: v for k, v in records(METRICS)[1].items() if k != "step"}
    expected = alerts(records(METRICS))
    said = [note for note in told if note["what"] == "alert"]
    assert sorted(note["title"] for note in said) == sorted(alert.kind for alert in expected)
    assert all(f"{alert.reason}; {alert.suggestion}" in str(said) for alert in expected)


def test_a_resumed_run_continues_where_the_tracker_is(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", table("Notes"))
    lines = METRICS.read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:21]))
    assert drpo("track", folder).returncode == 0
    resumed = folder / "metrics.partial"  # rewound to a checkpoint, as a resumed run does
    resumed.write_text("".join(lines[:11] + lines[11:26]))
    resumed.replace(folder / "metrics.jsonl")
    assert drpo("track", folder).returncode == 0
    assert drpo("track", folder).returncode == 0  # nothing is left, so it is not opened
    assert logged(folder, "Notes") == list(range(26))
    assert [n["id"] for n in notes(folder, "Notes") if n["what"] == "opened"] == [None, "first"]
    assert State.read(folder / "trackers" / "Notes").step == 25


def test_a_tracker_that_fails_now_and_then_misses_nothing(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", table("Flaky"), METRICS)
    done = drpo("track", folder)
    assert done.returncode == 0 and "warning" not in done.stderr
    assert logged(folder, "Flaky") == list(range(33))
    state = State.read(folder / "trackers" / "Flaky")
    assert state.failures == 4 and state.error == "ConnectionError: no route to host"
    log = (folder / "logs" / "tracker-Flaky.log").read_text()
    assert log.count("ConnectionError: no route to host\n") == 4
    (event,) = records(folder / "events.jsonl")
    assert event["text"] == (
        "tracker Flaky fails and is tried again: ConnectionError: no route to host "
        "(logs/tracker-Flaky.log)"
    )


def test_what_could_not_be_sent_is_reported(tmp_path: Path) -> None:
    trackers = table("Raising") + table("Dying") + table("Hanging", name="slow")
    folder = run_folder(tmp_path / "a", trackers, METRICS)
    done = drpo("track", folder, "--seconds", 8)
    assert done.returncode == 1 and done.stdout == ""
    said = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    raising, dying, slow = said
    assert raising.startswith(
        "warning: tracker Raising: 33 of 33 steps were not sent; it did not end within 8 s; it "
        "failed "
    )
    assert "times, last with ConnectionError: no route to host; its log is " in raising
    assert dying == (
        "warning: tracker Dying: 33 of 33 steps were not sent; its process ended with code 7; its "
        f"log is {folder}/logs/tracker-Dying.log; send them with `drpo track {folder}`"
    )
    assert slow.startswith("warning: tracker slow: 33 of 33 steps were not sent; it did not end")
    assert logged(folder, "slow") == [0]


FOLLOWED = """
import sys, time
from pathlib import Path
from drpo_cli.runs.folder import RunFolder
from drpo_cli.launch.tracking import follow_run
with follow_run(RunFolder(Path(sys.argv[1]))):
    time.sleep(3600)
"""


def test_a_tracker_outlives_a_killed_launcher_just_to_finish(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", table("Notes"))
    launcher = subprocess.Popen([sys.executable, "-c", FOLLOWED, str(folder)])
    lines = METRICS.read_text().splitlines(keepends=True)
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.writelines(lines[:3])
        metrics.write(lines[3][:20])
        metrics.flush()
        wait_for(lambda: logged(folder, "Notes") == [0, 1, 2])
        metrics.write(lines[3][20:])
        metrics.flush()
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
    wait_for(lambda: notes(folder, "Notes")[-1] == {"what": "closed"})
    assert logged(folder, "Notes") == [0, 1, 2, 3]


def test_one_that_hangs_does_not_outlive_a_killed_launcher_for_long(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", table("Hanging", finish_s=0.1), METRICS)
    launcher = subprocess.Popen([sys.executable, "-c", FOLLOWED, str(folder)])
    wait_for(lambda: logged(folder, "Hanging") == [0])
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    with (folder / "trackers" / "Hanging" / ".lock").open() as lock:
        wait_for(lambda: released(lock.fileno()))


def test_a_killed_follower_is_reported_and_ends_no_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def children() -> set[int]:
        listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        return set(map(int, listed.split()))

    folder, before = RunFolder(run_folder(tmp_path / "a", table("Hanging"), METRICS)), children()
    with follow_run(folder):
        wait_for(lambda: logged(folder.path, "Hanging") == [0])
        (follower,) = children() - before
        os.kill(follower, signal.SIGKILL)
    assert (
        "warning: tracker Hanging: 33 of 33 steps were not sent; the trackers' process ended with "
        f"code -9 ({folder.path}/logs/launch.log); its log is " in capfd.readouterr().err
    )
    with (folder.tracker("Hanging") / ".lock").open() as lock:  # its fork has died with it
        wait_for(lambda: released(lock.fileno()))


def released(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_bad_folders_get_a_message(tmp_path: Path) -> None:
    def message(folder: Path) -> str:
        done = drpo("track", folder)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return done.stderr

    assert "is not a run folder" in message(tmp_path)
    bare = run_folder(tmp_path / "bare", "", METRICS)
    assert "names no [[tracker]]; add one there" in message(bare)
    broken = run_folder(tmp_path / "broken", "[[tracker", METRICS)
    assert "spec.toml cannot be read: Expected" in message(broken)
    busy = run_folder(tmp_path / "busy", table("Notes"), METRICS)
    with RunFolder(busy).lock():
        assert "is training" in message(busy)
    assert notes(busy, "Notes") == []


def test_flatten_and_list_settings() -> None:
    record = {
        "step": 3,
        "reward": 0.5,
        "loss": None,
        "rewards": {"a": 1, "step": 2},
        "grading": {"a": {"failures": {"timeout": 2}}},
        "held_out_set": "abc",
        "odd": True,
    }
    assert flatten(record) == {
        "reward": 0.5,
        "rewards/a": 1,
        "rewards/step": 2,
        "grading/a/failures/timeout": 2,
    }
    spec = {"run": {"steps": 2}, "reward": [{"type": "x"}, {"type": "y"}], "stop": ["a"]}
    assert dict(list_settings(spec)) == {
        "run.steps": "2",
        "reward[0].type": "x",
        "reward[1].type": "y",
        "stop": "['a']",
    }


def test_trackers_in_a_spec(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST + table("Notes") + '[[tracker]]\ntype = "tensorboard"\n')
    spec = load(path)
    assert dict(describe(make_plan(spec, 1)))["trackers"] == "Notes, tensorboard"
    again = load(write(tmp_path, dump(spec)))
    assert again.tracker == spec.tracker and [t.config.name for t in spec.tracker] == [
        "Notes",
        "tensorboard",
    ]
    assert load(write(tmp_path, SMALLEST)).tracker == load(path, ["tracker=[]"]).tracker == ()
    assert "[[tracker]]" not in dump(load(path, ["tracker=[]"]))


@pytest.mark.parametrize(
    ("options", "line", "message"),
    [
        ('type = "wandbb"', 1, "there is no tracker 'wandbb'; did you mean 'wandb'?"),
        ('type = "wandb"\nname = "tensorboard"', 2, "is 'tensorboard', like the name of an"),
        ('type = "trackio"\nfinish_s = 0', 2, "is 0; must be above 0"),
        ('type = "mlflow"\nuri = "https://me:secret@host/"', 2, "holds a password or token"),
        ('type = "wandb"\nbase_url = "https://host/?api_key=1"', 2, "holds a password or token"),
        ("", 0, "is missing; name a tracker: mlflow, tensorboard, trackio, wandb, or your own"),
    ],
)
def test_a_wrong_tracker_is_reported_with_its_line(
    tmp_path: Path, options: str, line: int, message: str
) -> None:
    text = f'{SMALLEST}[[tracker]]\ntype = "tensorboard"\n[[tracker]]\n{options}\n'
    where, _, what = problem(plugin_folder(tmp_path), text).partition(": tracker[1]")
    assert message in what
    assert where.startswith(f"run.toml:{text.splitlines().index('[[tracker]]') + 3 + line}:")


def test_a_client_that_is_not_installed_is_reported_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb, "CLIENT", "no_such_client")
    (tmp_path / "no_such_client").mkdir()  # what a client leaves behind may have its name
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    spec = load(write(tmp_path, f'{SMALLEST}[[tracker]]\ntype = "wandb"\n'))
    (warning,) = spec.warnings
    what = "tracker[0].type: is 'wandb', which is not installed; pip install 'drpo[wandb]'"
    assert str(warning).endswith(what)
    with pytest.raises(UserError, match=r"pip install 'drpo\[wandb\]'"):
        launch.prepare(spec, resume=False, world=1)
    assert not (tmp_path / "runs").exists()


def test_no_key_reaches_a_log_or_the_spec(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", '[[tracker]]\ntype = "wandb"\nmode = "offline"\n', METRICS)
    key = "0123456789abcdef" * 5
    done = drpo("track", folder, WANDB_API_KEY=key)
    assert done.returncode == 0, done.stderr
    for path in folder.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path
    assert json.loads((folder / "trackers" / "wandb" / "state.json").read_text())["step"] == 32
    assert os.environ.get("WANDB_API_KEY") != key
