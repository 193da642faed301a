"""Rules on how rewards make up a total: each is broken once, its message tied to the right key."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli.spec import load
from support.specs import plugin_folder, problems, write

SPEC = """\
[run]
name = "test"
steps = 10
[model]
path = "some-org/some-model"
[[data]]
type = "arithmetic"
[rollout]
prompts_per_step = 8
samples_per_prompt = 4
max_new_tokens = 16
[[reward]]
type = "./rewards.py:good"
{first}
[[reward]]
type = "./rewards.py:better"
{second}
[objective]
type = "drpo"
delta = 0.2
"""


def spec(first: str = "", second: str = "") -> str:
    return SPEC.format(first=first or "workers = 2", second=second or "workers = 2")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("", ""),
        ("weight = 0", ""),
        ("weight = -1", "gate = true"),
        ("weight = 0\nevery = 5", ""),
        ('name = "a"', 'name = "b"'),
        ("gate = true\nweight = 1.0", ""),
        ('on_error = "zero"\ntries = 3', 'on_error = "skip_sample"\ntimeout_s = 0.5'),
    ],
)
def test_what_makes_a_total(tmp_path: Path, first: str, second: str) -> None:
    plugin_folder(tmp_path)
    assert len(load(write(tmp_path, spec(first, second))).reward) == 2


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("weight = 0", "weight = 0.0",
         "run.toml:14:10: reward[0].weight: is 0, and so is every other weight: nothing would be"),
        ("weight = 0", "gate = true",
         "run.toml:14:10: reward[0].weight: leaves gates alone: they multiply a sum that nothing"),
        ("gate = true", "gate = true", "leaves gates alone"),
        ('name = "a"', 'name = "a"',
         "run.toml:17:8: reward[1].name: is 'a', like an earlier reward's; give each [[reward]]"),
        ("", "gate = true\nweight = 2.0",
         "run.toml:18:10: reward[1].weight: is 2, but a gate multiplies the sum of the others"),
        ("", "gate = true\nweight = 0", "reward[1].weight: is 0, but a gate multiplies"),
        ("", "every = 3",
         "run.toml:17:9: reward[1].every: is 3, and the total needs this reward in every step"),
        ("", "every = 3\ngate = true", "reward[1].every: is 3, and the total needs this"),
        ("", 'on_error = "skip"', "reward[1].on_error: "),
        ("", "timeout_s = 0", "reward[1].timeout_s: "),
        ("", "tries = 0", "reward[1].tries: "),
        ("", "workers = 0", "reward[1].workers: "),
        ("", "concurrency = 0", "reward[1].concurrency: "),
    ],
)  # fmt: skip
def test_what_makes_none(tmp_path: Path, first: str, second: str, expected: str) -> None:
    plugin_folder(tmp_path)
    (line,) = problems(tmp_path, spec(first, second))
    assert expected in line
