"""docs/extending.md does what it says: its blocks, followed word for word."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.command import drpo
from support.trackers import run_folder

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")


def block(language: str, within: str, after: str = "") -> str:
    """The first block of a language behind a text, in the section of that heading."""
    section = PAGE[PAGE.index(f"\n{within}\n") :]
    found = re.search(rf"```{language}\n(.*?)```", section[section.index(after) :], re.DOTALL)
    assert found, (language, within, after)
    return found[1]


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    folder = tmp_path / "demo"
    assert drpo("init", folder).returncode == 0
    return folder


def test_a_first_reward_is_written_named_and_tested(demo: Path) -> None:
    (demo / "rewards.py").write_text(block("python", "## A reward", "write `rewards.py`"))
    (demo / "tries.jsonl").write_text(block("json", "## A reward"))
    spec = demo / "run.toml"
    there, table = '[[reward]]\ntype = "exact_match"\n', block("toml", "## A reward")
    assert there in spec.read_text()
    spec.write_text(spec.read_text().replace(there, f"{there}\n{table}"))

    report = demo / "report.json"
    tried = drpo("reward", "test", spec, "--samples", demo / "tries.jsonl", "--json", report)
    assert tried.returncode == 0, tried.stderr
    samples = json.loads(report.read_text())["samples"]
    totals = [sample["reward"] for sample in samples]
    assert totals == pytest.approx([1.2, 0.2 * 2 / 3, 0.0, 0.0])
    assert drpo("reward", "test", spec).returncode == 0
    checked = drpo("check", spec)
    assert checked.returncode == 0 and "0.2 × digits: in 2 processes" in checked.stdout


def test_a_group_reward_and_a_class_work_as_printed(demo: Path) -> None:
    (demo / "rewards.py").write_text(block("python", "### A whole group at once"))
    (demo / "code_rewards.py").write_text(
        block("python", "### Options, set-up, and waiting: a class")
    )
    table = block("toml", "### Options, set-up, and waiting: a class")
    spec, tries = demo / "run.toml", demo / "tries.jsonl"
    own = f'[[reward]]\ntype = "./rewards.py:rare"\n\n{table}'
    spec.write_text(spec.read_text().replace('[[reward]]\ntype = "exact_match"\n', own))
    texts = ["print(1)", "print(1", "print(1)", "x" * 3000]
    lines = [{"prompt": "a", "answer": "1", "completion": text} for text in texts]
    tries.write_text("".join(json.dumps(line) + "\n" for line in lines))

    report = demo / "report.json"
    tried = drpo("reward", "test", spec, "--samples", tries, "--json", report)
    assert tried.returncode == 0, tried.stderr
    found = [sample["rewards"] for sample in json.loads(report.read_text())["samples"]]
    assert [rewards["rare"] for rewards in found] == [0.5, 1.0, 0.5, 1.0]
    assert [rewards["Parses"] for rewards in found] == [1.0, 0.0, 1.0, 0.0]


def test_a_tracker_works_as_printed(tmp_path: Path) -> None:
    metrics = Path(__file__).parents[1] / "data" / "metrics-healthy.jsonl"
    table = block("toml", "## A tracker").replace("./table.py", f"{tmp_path}/table.py")
    (tmp_path / "table.py").write_text(block("python", "## A tracker"))
    folder = run_folder(tmp_path / "runs" / "a", table, metrics)
    done = drpo("track", folder)
    assert done.returncode == 0, done.stderr
    head, first, second, *rest = (folder / "trackers" / "table" / "table.csv").read_text().split()
    assert head == "step,reward,entropy,rewards/exact_match"
    assert first == "0,,,"
    assert second.startswith("1,0.") and second.endswith(",")
    assert len(rest) == 199


def test_an_environment_is_written_named_and_played(demo: Path) -> None:
    (demo / "environments.py").write_text(block("python", "## An environment"))
    spec = demo / "run.toml"
    table = block("toml", "## An environment")
    spec.write_text(spec.read_text().replace("[[reward]]", f"{table}\n[[reward]]", 1))
    checked = drpo("check", spec)
    assert checked.returncode == 0, checked.stderr + checked.stdout
    played = drpo("environment", "try", spec, typed="5\n7\n")
    assert played.returncode == 0, played.stderr
    assert played.stdout.count("reward 1") == 2
