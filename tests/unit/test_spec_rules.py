"""Rules over several keys: each is broken once, and its message is tied to the right key."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli.spec import SpecError, load

SPEC = """\
[run]
name = "test"
steps = 10
[model]
path = "some-org/some-model"
[[data]]
type = "./my.py:rows"
[rollout]
prompts_per_step = 8
samples_per_prompt = 4
max_new_tokens = 16
context_length = 64
[[reward]]
type = "./my.py:good"
weight = 1.0
[[reward]]
type = "./my.py:short"
weight = 0.0
[advantage]
type = "group_mean"
[objective]
type = "drpo"
delta = 0.2
[train]
updates_per_rollout = 4
warmup_updates = 40
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    functions = ("rows", "good", "short", "zero")
    (tmp_path / "my.py").write_text("".join(f"def {name}(*_): ...\n" for name in functions))
    return tmp_path / "run.toml"


def load_text(path: Path, text: str, *overrides: str) -> tuple[str, ...]:
    path.write_text(text, encoding="utf-8")
    return tuple(map(str, load(path, overrides).warnings))


def test_the_spec_used_here_breaks_no_rule(path: Path) -> None:
    assert load_text(path, SPEC) == ()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("max_new", "top_p = 0.95\nmax_new", "11:9: rollout.top_p: is 0.95; must stay 1 in train"),
        ("max_new", "top_k = 20\nmax_new", "11:9: rollout.top_k: is 20; must stay 0 in training"),
        ("max_new", "min_p = 0.1\nmax_new", "11:9: rollout.min_p: is 0.1; must stay 0 in train"),
        ("prompt = 4", "prompt = 1", "10:22: rollout.samples_per_prompt: is 1; must be at least 2"),
        (
            "rollout = 4",
            "rollout = 5",
            "25:23: train.updates_per_rollout: is 5; must divide the",
        ),
        ("weight = 1.0", "weight = 0", "15:10: reward[0].weight: is 0, and so is every other"),
        ("my.py:short", "my.py:good", "17:8: reward[1].name: is 'good', like an earlier reward's"),
        ("updates = 40", "updates = 41", "26:18: train.warmup_updates: is 41; must be at most 40"),
        ("length = 64", "length = 16", "11:18: rollout.max_new_tokens: is 16; must be below"),
        ("[train]", "[eval]\nmax_new_tokens = 99\n[train]", "25:18: eval.max_new_tokens: is 99"),
    ],
)
def test_a_broken_rule(path: Path, old: str, new: str, expected: str) -> None:
    assert old in SPEC
    with pytest.raises(SpecError) as caught:
        load_text(path, SPEC.replace(old, new, 1))
    (line,) = map(str, caught.value.problems)
    assert f"run.toml:{expected}" in line


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("delta = 0.2", "delta = 1", "23:9: objective.delta: is 1: |π−μ| ≤ 1, so every gradient"),
        ("delta = 0.2", "delta = 12.5", "[1−1/δ, 1+1/δ] = [0.92, 1.08]"),
        ('"drpo"\ndelta = 0.2', '"none"', "24:23: train.updates_per_rollout: is 4, and objective"),
        ("[train]", "[train]\nfinal_learning_rate = 1e-7", "25:1: train.final_learning_rate: has"),
    ],
)
def test_a_warning(path: Path, old: str, new: str, expected: str) -> None:
    assert old in SPEC
    (line,) = load_text(path, SPEC.replace(old, new, 1))
    assert expected in line


def test_other_objectives_with_a_large_delta_are_not_warned_about(path: Path) -> None:
    assert load_text(path, SPEC.replace('"drpo"\ndelta = 0.2', '"spo"\nepsilon = 12.5')) == ()


def test_a_group_of_one_is_fine_without_a_group_baseline(path: Path) -> None:
    text = SPEC.replace('"group_mean"', '"./my.py:zero"').replace("prompt = 4", "prompt = 1")
    assert load_text(path, text) == ()


def test_the_override_that_breaks_a_rule_is_named(path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_text(
            path,
            SPEC.replace("rollout = 4", "rollout = 8"),
            "run.steps=11",
            "rollout.prompts_per_step=7",
            "eval.every=1",
        )
    (line,) = map(str, caught.value.problems)
    start = "--set rollout.prompts_per_step=7: train.updates_per_rollout: is 8; must divide the 7 ×"
    assert line.startswith(start)


def test_rules_over_sound_keys_are_checked_beside_keys_that_failed(path: Path) -> None:
    text = SPEC.replace("max_new", "top_p = 0.9\nmax_new").replace("context_length = 64", "x = 1")
    text = text.replace("./my.py:good", "./my.py:gone").replace("./my.py:short", "./my.py:gone")
    with pytest.raises(SpecError) as caught:
        load_text(path, text)
    keys = [line.split(": ")[1] for line in map(str, caught.value.problems)]
    assert keys == ["rollout.top_p", "rollout.x", "reward[0].type", "reward[1].type"]
