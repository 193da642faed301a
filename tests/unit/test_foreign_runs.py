"""Run folders of strangers: whatever is in them, the verbs that read them end well."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from drpo_cli.errors import UserError
from drpo_cli.launch.follower import list_trackers
from drpo_cli.launch.tracking import count_unsent
from drpo_cli.report.page import render_page
from drpo_cli.report.view.command import find_folders, watch
from drpo_cli.report.view.follow import Followed
from drpo_cli.report.view.screen import Lines
from drpo_cli.runs.events import say
from drpo_cli.runs.folder import RunFolder, open_folder
from drpo_cli.runs.reader import DEEPEST, LARGEST, LONGEST, parse_line
from drpo_cli.runs.records import Records
from drpo_cli.runs.saved import open_run
from drpo_cli.runs.spec import read_spec
from drpo_cli.tools.runs import diff, list_runs
from support.command import drpo
from support.mutants import FILES, INSTEAD, copy, mutate
from support.reports import whole_run

PATIENCE_S = 20  # on a machine that others use; a pipe blocks for ever
SPEC = {
    "run": {"name": "demo", "steps": 12, "folder": "runs"},
    "model": {"path": "/x/model"},
    "objective": {"type": "drpo", "delta": 0.2},
    "reward": [
        {"type": "exact_match", "weight": 1.0},
        {"type": "./rewards.py:f", "name": "readable", "weight": 0.0, "gate": False},
    ],
    "tracker": [{"type": "tensorboard", "name": "tb", "finish_s": 3.0}],
    "data": [{"type": "arithmetic", "digits": [1, 2]}],
}
FAILURE = {
    "step": 1, "reward": "judge", "reason": "timeout", "detail": "d", "prompt_id": "p",
    "sample": 1, "prompt": "x", "answer": "1", "completion": "a", "seconds": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with something in every file."""
    run = whole_run(tmp_path_factory.mktemp("runs") / "good", 12, samples=2)
    run.spec.write_text(tomli_w.dumps(SPEC))
    run.versions.write_text(json.dumps({"packages": {"drpo": "0.1"}, "cores": 2}))
    say(run, "loading the model …", "starting")
    say(run, "resumed after step 3", "running", resumed=3)
    say(run, "finished", "finished")
    texts = {"completion": ["a", "b"], "sample": None}
    Records(run.quarantine).extend([FAILURE, FAILURE | texts])
    return run.path


def follow(run: Path, good: Path) -> None:
    followed = [Followed(folder) for folder in find_folders([run])]
    lines = Lines(sys.stdout)
    lines.show(followed, [each.look() for each in followed])
    lines.close(followed)


def use_the_api(folder: Path, good: Path) -> None:
    run = open_run(folder)
    run.metrics_flat()
    list(run.samples())
    list(run.quarantine())
    run.sample_columns.records(range(len(run.sample_columns)))
    assert None not in (run.events, run.alerts, run.pairs, run.state, run.held_out, run.roles)


def count_steps_to_send(folder: Path, good: Path) -> None:
    run = open_folder(folder)
    for tracker in list_trackers(read_spec(run)):
        count_unsent(run, tracker["name"])


QUICK: tuple[Callable[[Path, Path], object], ...] = (
    lambda run, good: watch([run], once=True),
    lambda run, good: watch([run, good], once=True),
    follow,
    lambda run, good: list_runs(run, json_out=False),
    lambda run, good: list_runs(run.parent, json_out=True),
    lambda run, good: diff(run, good, json_out=False),
    lambda run, good: diff(good, run, json_out=True),
    count_steps_to_send,
    use_the_api,
)


@contextmanager
def ending_well(what: str) -> Iterator[io.StringIO]:
    """Yields what is printed. A user's mistake is a message; a time-out, as any error, fails."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(what)

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE_S)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()) as out:
            warnings.simplefilter("error")
            with redirect_stderr(out):
                yield out
    except UserError:
        pass
    except BaseException as error:
        error.add_note(what)
        raise
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@settings(max_examples=60, derandomize=True)
@given(st.integers(0, 10**6))
def test_no_change_of_a_file_breaks_a_verb_that_reads(good: Path, seed: int) -> None:
    run = copy(good, good.parent.parent / "changed" / "run")
    what = mutate(run, seed)
    for verb in QUICK:
        with ending_well(what):
            verb(run, good)


@settings(max_examples=3, derandomize=True)
@given(st.lists(st.integers(0, 10**6), min_size=8, max_size=8))
def test_no_changes_of_files_break_the_report(good: Path, seeds: list[int]) -> None:
    run = copy(good, good.parent.parent / "changed" / "run")
    said = []
    for seed in seeds:
        try:
            said.append(mutate(run, seed))
        except (OSError, ValueError, IndexError):  # what an earlier change left has no such part
            continue
    with ending_well("; ".join(said)):
        render_page([open_folder(run), RunFolder(good)])


@pytest.mark.parametrize("name", INSTEAD)
def test_anything_may_stand_in_the_place_of_a_file(good: Path, tmp_path: Path, name: str) -> None:
    for file in FILES:
        run = copy(good, tmp_path / "run")
        (run / file).unlink()
        INSTEAD[name](run / file)
        for verb in QUICK:
            with ending_well(f"{name} for {file}"):
                verb(run, good)
    run = copy(good, tmp_path / "run")
    for file in FILES[:-2]:
        (run / file).unlink()
        INSTEAD[name](run / file)
    with ending_well(f"{name} for all records") as out:
        out.write(render_page([RunFolder(run)]))
    if name not in ("nothing", "nowhere", "hole"):
        assert out.getvalue().count("jsonl cannot be read: ") >= 3


def test_what_is_left_out_is_counted_and_shown_by_every_verb(good: Path, tmp_path: Path) -> None:
    run = copy(good, tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[2] = '{"step": "two"}'
    lines[4] = lines[4].replace('"reward": ', '"reward": "much", "was": ', 1)
    lines[6] = "x"
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    said = (
        "metrics.jsonl: 2 lines were skipped; 1 line has values of another type, left out (line 3: "
        "Expected `int`, got `str` - at `$.step`)"
    )
    for verb in (*QUICK[:4], QUICK[5]):
        with ending_well(said) as out:
            verb(run, good)
        assert said in " ".join(out.getvalue().split())
    assert said in drpo("runs", "diff", run, good).stdout
    assert said in render_page([RunFolder(run)])
    assert len(open_run(run).metrics) == 11 and "reward" not in open_run(run).metrics[3]


def test_what_is_read_has_a_largest_size_and_depth(good: Path, tmp_path: Path) -> None:
    run = copy(good, tmp_path / "run")
    with (run / "samples.jsonl").open("ab") as file:
        file.write(b'{"step": 1, "prompt": "' + b"x" * LONGEST + b'", "completion": ""}\n')
        file.write(b'{"step": 99, "prompt": "", "completion": ""}\n')
    with (run / "spec.toml").open("ab") as file:
        file.write(b"#" * LARGEST)
    found = open_run(run)
    assert 99 not in [sample["step"] for sample in found.samples()]
    assert found.spec == {}
    assert found.notes == (
        "samples.jsonl has a line of more than 32 MiB; nothing after it is read",
        "spec.toml cannot be read: Is larger than 16 MiB",
    )
    deep = b'{"a": ' * (DEEPEST - 1) + b"[]" + b"}" * (DEEPEST - 1)
    assert parse_line(deep) is not None and parse_line(b'{"a": ' + deep + b"}") is None


def test_a_follower_reads_on_where_it_was(good: Path, tmp_path: Path) -> None:
    run = RunFolder(copy(good, tmp_path / "run"))
    followed = Followed(run)
    with run.lock():
        followed.look()
        os.truncate(run.metrics, run.metrics.stat().st_size - 9)
        Records(run.metrics).append({"step": 13})
        assert not [record for record in followed.look().steps if record["step"] == 13]
        Records(run.metrics).append({"step": 14})
        assert followed.look().steps == [{"step": 14}]
        assert "1 line was skipped" in followed.notes[0]


def test_nothing_in_a_run_folder_is_code_for_a_verb_that_reads(good: Path, tmp_path: Path) -> None:
    """Bombs of each kind, in every file and beside them; the verbs run in the folder itself."""
    run, ran = copy(good, tmp_path / "run"), tmp_path / "ran"
    python = f"import pathlib; pathlib.Path({str(ran)!r}).touch()\n"
    command = f"touch {ran}"

    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return os.system, (command,)

    for module in ("sitecustomize", "usercustomize", "json", "tomli", "msgspec", "jinja2", "numpy",
                   "bokeh", "rich", "typer", "psutil", "drpo_cli", "rewards"):  # fmt: skip
        (run / f"{module}.py").write_text(python)
    (run / "x.pth").write_text(python)
    (run / ".env").write_text(f"BASH_ENV={run}/rewards.py\n")
    (run / "state.pkl").write_bytes(pickle.dumps(Bomb()))
    (run / "page.html.jinja").write_text("{{ 7 * 7 }}")
    (run / "checkpoints" / "step-000001").mkdir(parents=True)
    (run / "checkpoints" / "step-000001" / ".metadata").write_bytes(pickle.dumps(Bomb()))
    (run / "checkpoints" / "step-000001" / "complete.json").write_bytes(pickle.dumps(Bomb()))
    texts = (
        f"!!python/object/apply:os.system ['{command}']",
        f"{{{{ cycler.__init__.__globals__.os.system('{command}') }}}}",
        f"$({command}) `{command}` ; {command}",
        f"__import__('os').system('{command}')",
    )
    for text in texts:
        line = {"step": 3, "prompt": text, "completion": text, "time": 1.0, "text": text}
        for file in ("metrics.jsonl", "samples.jsonl", "events.jsonl", "quarantine.jsonl"):
            Records(run / file).append(line | {"reward": text, "reason": text, text: text})
    objective = {"type": "./rewards.py:loss", "note": texts[1]}
    (run / "spec.toml").write_text(tomli_w.dumps(SPEC | {"objective": objective}))
    for at, command_line in enumerate(
        (
            ["report", "."],
            ["watch", ".", "--once"],
            ["watch", ".", "--out", "x.svg"],
            ["runs", "."],
            ["runs", "diff", ".", str(good)],
        )
    ):
        script = Path(sys.executable).with_name("drpo")  # `python -m` looks in this folder
        done = subprocess.run([script, *command_line], cwd=run, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not ran.exists(), command_line
        if at == 0:
            page = (run / "report.html").read_text()
            assert "cycler.__init__" in page
    for file in ("metrics.jsonl", "samples.jsonl", "events.jsonl", "spec.toml", "versions.json"):
        (run / file).write_bytes(pickle.dumps(Bomb()))
    for verb in QUICK:
        with ending_well("a pickle in every file"):
            verb(run, good)
    with ending_well("a pickle in every file"):
        render_page([RunFolder(run)])
    assert not ran.exists()
