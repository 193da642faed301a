"""`drpo reward`: rewards tried on samples, on the reference answers, and looked up."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from support.command import drpo as in_a_process
from support.command import drpo_here as drpo

WIDE = {"COLUMNS": "100"}
REWARDS = '''\
"""Rewards to try."""


def strict(completion: str, answer: str) -> float:
    """1 where both are the same."""
    if completion == "broken":
        return {}["mine"]
    if completion == "empty":
        return None
    return float(completion == answer)


def rare(completions: list[str]) -> list[float]:
    """Less for what others of the group say too."""
    return [1 / completions.count(text) for text in completions]


def shouting(prompt: str) -> float:
    """1 for a prompt in capitals."""
    return float(prompt.isupper())


class Slow:
    """Takes its time over some."""

    def __init__(self) -> None:
        import time

        self.wait = time.sleep

    def __call__(self, completion: str) -> float:
        if completion == "slow":
            self.wait(600)
        return 1.0
'''
SPEC = """\
[run]
name = "test"
steps = 1
[model]
path = "some-org/some-model"
[[data]]
type = "jsonl"
path = "rows.jsonl"
[rollout]
engine = "transformers"
prompts_per_step = 4
[[reward]]
type = "./rewards.py:strict"
[[reward]]
type = "./rewards.py:rare"
weight = 0
[eval]
problems = 1
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "rewards.py").write_text(REWARDS)
    rows = [{"prompt": f"{i}+1=", "answer": i + 1} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "run.toml"
    path.write_text(SPEC)
    return path


def samples(spec: Path, *completions: str, answer: str = "4") -> Path:
    path = spec.parent / "tried.jsonl"
    lines = [{"prompt": "2+2=", "completion": text, "answer": answer} for text in completions]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_samples_of_a_file_are_scored_as_a_group(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    tried = samples(spec, "4", "4", "5", "it is 4")
    done = drpo("reward", "test", spec, "--samples", tried, "--json", out, **WIDE)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert [sample["rewards"] for sample in found["samples"]] == [
        {"strict": 1.0, "rare": 0.5},
        {"strict": 1.0, "rare": 0.5},
        {"strict": 0.0, "rare": 1.0},
        {"strict": 0.0, "rare": 1.0},
    ]
    assert [sample["reward"] for sample in found["samples"]] == [1.0, 1.0, 0.0, 0.0]
    assert found["rewards"]["strict"]["zeros"] == 0.5
    assert found["rewards"]["rare"]["calls"] == 1
    assert found["agreement"] == {
        "threshold": 1.0,
        "answer_high": 2,
        "answer_low": 1,
        "no_answer_high": 0,
        "no_answer_low": 1,
    }
    assert found["quarantine"] == []
    assert "4 samples of 1 prompt:" in done.stdout
    assert "has the answer, but a low total: sample 4" in done.stdout


def test_failures_are_shown_by_kind_with_the_users_line_and_exit_1(spec: Path) -> None:
    tried = samples(spec, "4", "broken", "empty")
    done = drpo("reward", "test", spec, "--samples", tried, **WIDE)
    assert done.returncode == 1
    line = 1 + REWARDS.splitlines().index('        return {}["mine"]')
    assert "strict: exception, 1 call" in done.stdout
    assert "KeyError: 'mine'" in done.stdout and f"rewards.py:{line} in strict" in done.stdout
    assert "strict: wrong_type, 1 call" in done.stdout and "returned None" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_call_over_its_deadline_is_a_failure_and_no_more(spec: Path, tmp_path: Path) -> None:
    spec.write_text(SPEC + '[[reward]]\ntype = "./rewards.py:Slow"\ntimeout_s = 1\n')
    out = tmp_path / "out.json"
    tried = samples(spec, "4", "slow", "4")
    done = drpo("reward", "test", spec, "--samples", tried, "--json", out, **WIDE)
    assert done.returncode == 1
    assert "Slow: timeout, 1 call" in done.stdout
    found = json.loads(out.read_text())
    assert [sample["rewards"]["Slow"] for sample in found["samples"]] == [1.0, None, 1.0]
    assert [sample["reward"] for sample in found["samples"]] == [2.0, None, 2.0]


def test_without_samples_the_reference_answers_are_scored(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = drpo("reward", "test", spec, "--json", out, **WIDE)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert [sample["completion"] for sample in found["samples"]] == list("12345678")
    assert found["agreement"]["answer_high"] == 8
    assert "the reference answers of the first 8 problems" in done.stdout


def test_data_without_answers_asks_for_samples(spec: Path) -> None:
    (spec.parent / "rows.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    done = drpo("reward", "test", spec, **WIDE)
    assert done.returncode == 2
    assert "has an answer to score as a completion; give --samples" in done.stderr


def test_mistakes_exit_2(spec: Path) -> None:
    tried = samples(spec, "4")
    done = drpo("reward", "test", spec, "--samples", tried, "--generate", 2)
    assert (done.returncode, "give one" in done.stderr) == (2, True)
    tried.write_text('{"prompt": "p"}\n')
    done = drpo("reward", "test", spec, "--samples", tried)
    assert (done.returncode, "tried.jsonl:1: completion" in done.stderr) == (2, True)
    done = drpo("reward", "test", spec, "--set", "reward[0].type=./rewards.py:gone")
    assert (done.returncode, "has no 'gone'" in done.stderr) == (2, True)


def test_check_refuses_annotations_that_cannot_hold(spec: Path) -> None:
    wrong = "def wrong(completion: int) -> str: ...\n"
    (spec.parent / "wrong.py").write_text(wrong)
    done = drpo("check", spec, "--set", "reward[0].type=./wrong.py:wrong")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "wrong.py:1: 'completion' is annotated int" in done.stderr
    assert "wrong.py:1: returns str, which is not a score" in done.stderr


def test_check_says_where_rewards_run(spec: Path) -> None:
    done = drpo("check", spec, "--set", "reward[1].type=exact_match", **WIDE)
    assert "strict: in 2 processes per rank, 30 s per call, on error stop" in done.stdout
    assert "0 × exact_match: in the trainer's process, on error stop" in done.stdout


def test_the_list_names_every_built_in_reward() -> None:
    done = drpo("reward", "list", **WIDE)
    assert done.returncode == 0, done.stderr
    assert "exact_match    1 where the completion equals the reference answer" in done.stdout
    assert "./file.py:name" in done.stdout


def test_a_page_has_options_examples_and_a_table_that_loads() -> None:
    done = drpo("reward", "show", "length", **WIDE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("length\nSoft penalty on long responses")
    assert "config, tokens" in done.stdout and "in the trainer's own process" in done.stdout
    own, shared = (done.stdout.index(part) for part in ("soft_limit  whole", "timeout_s"))
    assert own < shared < done.stdout.index("tokens: (1, 1, 1, 1)")
    (table,) = tomllib.loads(done.stdout[done.stdout.index("[[reward]]") :])["reward"]
    assert table == {"type": "length", "soft_limit": 4, "limit": 8}


def test_a_page_of_the_users_own(spec: Path) -> None:
    done = drpo("reward", "show", f"{spec.parent}/rewards.py:rare", **WIDE)
    assert "Less for what others of the group say too." in done.stdout
    assert "called for a whole group at once, in worker processes" in done.stdout
    done = drpo("reward", "show", "exact_macht")
    assert (done.returncode, "did you mean 'exact_match'" in done.stderr) == (2, True)


def test_an_installed_package_is_listed_and_a_broken_one_too(tmp_path: Path) -> None:
    for name, source in (
        ("good", '"""All are good."""\ndef reward(): ...\n'),
        ("bad", "import x_y"),
    ):
        (tmp_path / f"my_{name}.py").write_text(source)
        info = tmp_path / f"my_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: my-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[drpo.rewards]\n{name} = my_{name}\n")
    done = in_a_process("reward", "list", PYTHONPATH=str(tmp_path), **WIDE)
    assert done.returncode == 0, done.stderr
    assert "All are good.  (my_good)" in done.stdout
    said = " ".join(done.stdout.split())
    assert "bad does not load: " in said and "No module named 'x_y'" in said
