"""`drpo check`, run by a user and by a tool."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from drpo_cli import plugins
from drpo_cli.spec import SpecError, dump, load
from drpo_cli.spec.dumping import settings_of
from support.command import drpo
from support.corpus import Case


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path, _, _ = Case("the base").write(tmp_path, fixed=True)
    return path


def place(key: str, spec: Path) -> str:
    lines = spec.read_text().splitlines()
    return f"line {next(n for n, line in enumerate(lines, 1) if line.startswith(key))}"


def as_json(*arguments: object, code: int) -> Any:
    done = drpo("check", *arguments, "--json")
    assert (done.returncode, done.stderr) == (code, "")
    return json.loads(done.stdout)


def test_a_tool_reads_what_is_wrong(spec: Path) -> None:
    spec.write_text(spec.read_text().replace("steps = 10", "steps = [\n0]"))
    found = as_json(spec, "--set", "objective.delta=5", "--set", "eval.evry=1", code=2)
    assert (found["valid"], found["resolved"], found["note"]) == (False, None, None)
    steps, override, doubt = found["problems"]
    assert steps == {
        "severity": "error",
        "file": str(spec),
        "key": "run.steps",
        "message": "is [0]; must be a whole number "
        "(Number of steps, each a rollout and its training)",
        "line": 3,
        "column": 9,
        "end_line": 4,
        "end_column": 3,
        "source": "steps = [",
        "origin": "file",
    }
    assert (override["line"], override["column"], override["end_column"]) == (None, 7, 16)
    assert (override["source"], override["origin"]) == ("--set eval.evry=1", "--set")
    assert (doubt["severity"], doubt["key"]) == ("warning", "objective.delta")


def test_a_tool_reads_the_run(spec: Path) -> None:
    found = as_json(spec, "--set", "objective.delta=5", "--nproc", 2, code=0)
    assert found["valid"] and [p["severity"] for p in found["problems"]] == ["warning"]
    run = found["resolved"]
    assert run["arithmetic"]["sequences_per_step"] == 32
    assert run["arithmetic"]["sequences_per_update_per_rank"] == 4
    assert run["spec"]["run"]["folder"] == str(spec.parent / "runs")
    assert run["changed"]["objective.delta"] == {"value": 5, "default": 0.2, "from": "--set"}
    assert run["changed"]["reward[1].weight"] == {
        "value": 0.5,
        "default": 1.0,
        "from": place("weight", spec),
    }
    assert "[0.8, 1.2]" in run["trust_region"]
    again = spec.with_name("again.toml")
    again.write_text(dump(load(spec, ["objective.delta=5"])))
    assert as_json(again, code=0)["resolved"]["spec"] == run["spec"]


@pytest.mark.parametrize("name", ["gone.toml", "."])
def test_a_tool_reads_that_the_spec_is_missing(tmp_path: Path, name: str) -> None:
    found = as_json(tmp_path / name, code=2)
    (problem,) = found["problems"]
    assert not found["valid"] and problem["line"] is problem["source"] is None


def test_what_differs_from_the_defaults(spec: Path) -> None:
    done = drpo(
        "check",
        spec,
        "--diff",
        "--set",
        "preset=grpo",
        "--set",
        "objective={}",
        "--set",
        "advantage={}",
        "--set",
        "eval.problems=200",
    )
    rows = [re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines()]
    assert ["run.steps", "10", "required", place("steps", spec)] in rows
    assert ["rollout.stop", '["\\n", "Q:"]', "[]", place("stop", spec)] in rows
    assert ["objective.type", '"ppo_clip"', '"drpo"', "preset"] in rows
    assert not [row for row in rows if row[0] in ("train.betas", "eval.problems", "train.seed")]
    settings = settings_of(load(spec))
    assert sum(one.differs for one in settings) < sum(one.origin is not None for one in settings)
    count = f"{sum(one.origin is not None for one in settings)} keys set, "
    assert count in drpo("check", spec).stdout


def test_plan_and_rewards_are_checked_with_the_rest(spec: Path) -> None:
    (spec.parent / "model").mkdir()
    (spec.parent / "model" / "config.json").write_text('{"max_position_embeddings": 32}')
    text = spec.read_text().replace("rewards.py:good", "rewards.py:asks").replace("1e-6", "0")
    spec.write_text(text.replace("some-org/some-model", "./model"))
    done = drpo("check", spec, "--nproc", 3)
    lines = [re.sub(r"^.*toml:\d+:", "", line) for line in done.stderr.splitlines()[::3]]
    assert [line[:30] for line in lines[:4]] == [
        "20: rollout.prompts_per_step: ",
        "18: rollout.context_length: is",
        "8: reward[1].type: reward 'ask",
        "17: train.learning_rate: is 0;",
    ]
    assert lines[4] == f"4 errors in {spec}"


@pytest.mark.parametrize("objective", plugins.available("objectives"))
def test_every_objective_says_what_happens_to_a_token(spec: Path, objective: str) -> None:
    chosen = f'objective={{type="{objective}"}}'
    done = drpo("check", spec, "--set", chosen, "--set", "train.updates_per_rollout=1")
    assert done.returncode == 0
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("trust region")]
    assert len(row.split()) > 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("delta=0.2", "δ = 0.2 corrects: w falls to 0 where a diverging token reaches |π−μ| = 0.2"),
        ("delta=1", "δ = 1 never corrects, since |π−μ| ≤ 1: w in [1−1/δ, 1+1/δ] = [0, 2]"),
        ("delta_high=12.5", "A > 0: δ = 12.5 never corrects, since |π−μ| ≤ 1: w in [1−1/δ, 1+1/δ]"),
        ("delta_high=12.5", "A < 0: δ = 0.2 corrects"),
    ],
)
def test_the_regime_of_drpo(options: str, expected: str) -> None:
    plugin = plugins.load("objectives", "drpo")
    key, _, value = options.partition("=")
    assert plugin.regime is not None
    assert expected in plugin.regime(plugin.Config(**{key: float(value)}))


def test_a_terminal_of_twenty_columns(spec: Path) -> None:
    spec.write_text(spec.read_text().replace("steps = 10", "steps = -1"))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    environment |= {"TERM": "xterm", "NO_COLOR": "1"}
    for arguments in ([], ["--set", "run.steps=1", "--diff"]):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
        command = [sys.executable, "-m", "drpo_cli", "check", str(spec), *arguments]
        with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
            os.close(theirs)
            text = _written(ours)
        os.close(ours)
        assert process.returncode == (0 if arguments else 2) and "Traceback" not in text
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)  # no colour
        lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
        # what ends with the path of the spec is for copying, and not broken
        assert max(cell_len(line) for line in lines if str(spec) not in line) <= 20
        assert any("step" in line for line in lines)


def _written(terminal: int) -> str:
    content = b""
    while True:
        try:
            content += os.read(terminal, 65536)
        except OSError:  # the other end is closed: everything was read
            return content.decode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[run]\nname = 'x'\n\0\1\2", "run.toml: is a binary file, and a spec is text"),
        (b"a = 1\n" * 2_000_000, "run.toml: is 12.0 MB, and a spec is at most 1 MB; name the"),
        ("[run]\nname = 'é\xff'\n".encode("latin-1"), "run.toml:2:9: is not UTF-8 text; save the"),
        (b"\xff\xfe[\0", "run.toml: is a binary file"),
        (
            b"# A page\n\nSome prose,\n- and a list\n",
            "run.toml:3:6: Some: is not TOML: no = follows",
        ),
        (
            b'{\n  "run": {\n    "name": "x",\n  "steps": 3\n}\n}\n',
            "run.toml:1:1: is not TOML: this looks like JSON, and a spec is TOML",
        ),
    ],
)
def test_a_file_that_is_not_a_spec(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "run.toml")
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{tmp_path}/{expected}")


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(SpecError, match="and a spec is at most 1"):
        load(Path("/dev/zero"))


def test_the_spec_of_an_older_run_folder(spec: Path) -> None:
    old = spec.rename(spec.with_name("spec.toml"))
    old.write_text(old.read_text().replace("[train]", "[train]\nlogprob_chunk_tokens = 1024"))
    versions = spec.with_name("versions.json")
    for content, wrote in (
        ('{"packages": {"drpo": "0.0.7"}}', "0.0.7"),
        ("[", "of unknown version"),
    ):
        versions.write_text(content)
        with pytest.raises(SpecError) as caught:
            load(old)
        assert "was replaced by train.logits_mib" in str(caught.value)
        assert f"is a run folder that drpo {wrote} wrote" in caught.value.note
        assert str(caught.value).endswith(caught.value.note)
