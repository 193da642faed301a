"""Rules about the teacher of on-policy distillation: each is broken once, at the right key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drpo_cli.plan import _loss
from drpo_cli.spec import load
from drpo_cli.tools.doctor import needs
from support.specs import DATA, HEAD, REWARD, ROLLOUT, problem, problems, warnings

PLAIN = f"""\
{HEAD}{DATA}{ROLLOUT}{REWARD}[advantage]
type = "group_mean"
[objective]
type = "drpo"
[train]
updates_per_rollout = 2
"""
LOCAL = PLAIN + '[teacher]\npath = "a/b"\n'
REMOTE = PLAIN + '[teacher]\nurl = "http://host:8000/v1"\nmodel = "m"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    functions = ("rows", "good", "short", "zero")
    (tmp_path / "my.py").write_text("".join(f"def {name}(*_): ...\n" for name in functions))
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        LOCAL,
        REMOTE,
        REMOTE + 'api_key_env = "KEY"\nconcurrency = 4\nretries = 0\ntimeout_s = 100.0',
        LOCAL.replace("max_new", "temperature = 0.5\nmax_new"),
        REMOTE.replace("max_new", "temperature = 1.0\nmax_new"),
    ],
)
def test_a_teacher_that_breaks_no_rule(folder: Path, text: str) -> None:
    assert warnings(folder, text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PLAIN + "[teacher]", "20:1: teacher: names no model; give path, to load it beside the "),
        (
            LOCAL + 'url = "http://a/v1"\nmodel = "m"',
            "22:1: teacher.url: is given, and so is path;",
        ),
        (LOCAL + "coefficient = 0", "22:15: teacher.coefficient: is 0;"),
        (LOCAL + 'model = "m"', "22:1: teacher.model: has no effect with teacher.path, a teacher "),
        (LOCAL + 'api_key_env = "K"', "22:1: teacher.api_key_env: has no effect with teacher.path"),
        (LOCAL + "concurrency = 1", "22:1: teacher.concurrency: has no effect with teacher.path"),
        (LOCAL + "retries = 1", "22:1: teacher.retries: has no effect with teacher.path"),
        (LOCAL + "timeout_s = 200.0", "22:1: teacher.timeout_s: has no effect with teacher.path"),
        (REMOTE.replace('model = "m"', ""), "20:1: teacher.model: is missing; name the teacher as"),
        (REMOTE.replace("http://", ""), "21:7: teacher.url: is 'host:8000/v1'; "),
        (
            REMOTE.replace("host", "me:secret@host"),
            "21:7: teacher.url: is 'http://***@host:8000/v1'; holds",
        ),
        (
            REMOTE + "timeout_s = 30.0",
            "20:1: teacher: is a table; timeout_s = 30 leaves no time for o",
        ),
        (
            REMOTE.replace("max_new", "temperature = 0.7\nmax_new"),
            "11:15: rollout.temperature: is 0.7, and an endpoint gives the teacher's log-probs at ",
        ),
        (
            LOCAL.replace('"drpo"', '"gspo"'),
            "17:8: objective.type: is 'gspo', which works on whole responses, and a [teacher]",
        ),
    ],
)
def test_what_a_teacher_cannot_have(folder: Path, text: str, expected: str) -> None:
    (line,) = problems(folder, text)
    assert line.startswith(f"run.toml:{expected}"), line


def test_overrides_turn_a_teacher_into_one_behind_an_endpoint(folder: Path) -> None:
    line = problem(folder, LOCAL, "teacher.url=http://host/v1", "teacher.model=m")
    assert line.startswith("--set teacher.url=http://host/v1: teacher.url: is given, and so is pat")


def test_the_loss_names_the_endpoint(folder: Path) -> None:
    def said(text: str) -> Any:
        (folder / "run.toml").write_text(text)
        return _loss(load(folder / "run.toml"))

    assert said(LOCAL).endswith(", 1 × log-probs of a/b")
    assert said(REMOTE).endswith(", 1 × log-probs of m at http://host:8000/v1")


def test_what_a_teacher_alone_does_not_use_is_a_warning(folder: Path) -> None:
    gae = PLAIN.replace("group_mean", "gae") + "[critic]\n"
    teacher = ('teacher.path="a/b"', "teacher.rewards=false")
    (line,) = warnings(folder, PLAIN, *teacher, "rollout.dynamic_sampling_rounds=2")
    assert "drops groups whose rewards are all equal, and the teacher teaches on those too" in line
    (line,) = warnings(folder, PLAIN, *teacher, 'reference.kl="k1"')
    assert "reference.kl: takes the divergence off the rewards" in line
    (line,) = warnings(folder, gae, *teacher)
    assert "critic: predicts rewards, and teacher.rewards = false learns from none" in line
    assert warnings(folder, gae, teacher[0]) == []


def test_the_doctor_looks_for_the_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "run.toml").write_text(REMOTE + 'api_key_env = "NO_SUCH_KEY"\n')
    spec = load(folder / "run.toml")
    (finding,) = needs.check_plugins(spec)
    assert (finding.check, finding.status) == ("teacher", "wrong")
    assert "needs the environment variable NO_SUCH_KEY" in finding.found
    monkeypatch.setenv("NO_SUCH_KEY", "here it is")
    assert [finding.status for finding in needs.check_plugins(spec)] == ["ok"]
