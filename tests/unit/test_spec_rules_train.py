"""Rules on objective, advantage, reference and critic: each broken once, tied to the right key."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli.spec import SpecError, load

PLAIN = """\
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
type = "exact_match"
[advantage]
type = "group_mean"
[objective]
type = "drpo"
[train]
updates_per_rollout = 2
"""
GAE = PLAIN.replace("group_mean", "gae") + "[critic]\n"
GSPO = PLAIN.replace('"drpo"', '"gspo"')


def load_text(folder: Path, text: str, *overrides: str) -> tuple[str, ...]:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return tuple(map(str, load(path, overrides).warnings))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PLAIN, id="plain"),
        pytest.param(GAE, id="gae with an empty critic"),
        pytest.param(GAE + "warmup_steps = 9\nvalue_clip = 0", id="a critic's options"),
        pytest.param(GSPO, id="gspo"),
        pytest.param(GSPO + '[reference]\nkl = "k3"', id="gspo near a reference"),
        pytest.param(PLAIN + '[reference]\nkl = "k1"', id="k1"),
        pytest.param(PLAIN + 'anchor = "trainer"\nimportance_cap = 2.0', id="a cap"),
        pytest.param(PLAIN + 'reduction = "fixed_horizon"\nhorizon = 99', id="a horizon"),
        pytest.param(PLAIN + 'reduction = "fixed_horizon"', id="the horizon is the longest"),
        pytest.param(PLAIN + 'overlong = "soft"\noverlong_buffer = 16', id="a buffer"),
        pytest.param(
            PLAIN.replace("tokens = 16", "tokens = 16\ndynamic_sampling_rounds = 2"),
            id="dynamic sampling",
        ),
    ],
)
def test_what_goes_together_is_let_through(tmp_path: Path, text: str) -> None:
    assert load_text(tmp_path, text) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            GAE.replace('"drpo"', '"gspo"'),
            "17:8: objective.type: is 'gspo', whose ratio is that of a whole response, and "
            "advantage 'gae' gives every token its own",
        ),
        (
            GSPO + '[reference]\nkl = "k1"',
            "21:6: reference.kl: is 'k1', which changes the advantage of every token",
        ),
        (
            PLAIN.replace("group_mean", "gae"),
            "15:8: advantage.type: is 'gae', which needs a critic; add a [critic] section",
        ),
        (
            PLAIN + "[critic]\nwarmup_steps = 1",
            "20:1: critic: has no use with advantage 'group_mean'; take the section out",
        ),
        (
            PLAIN + "importance_cap = 2.0",
            "20:1: train.importance_cap: has no use with anchor 'engine'",
        ),
        (PLAIN + "horizon = 9", "20:1: train.horizon: has no use with reduction 'token_mean'"),
        (
            PLAIN + 'reduction = "sequence_mean"\nhorizon = 9',
            "21:1: train.horizon: has no use with reduction 'sequence_mean'",
        ),
        (
            PLAIN + "overlong_buffer = 4",
            "20:1: train.overlong_buffer: has no use with overlong 'keep'",
        ),
        (
            PLAIN + 'overlong = "soft"\noverlong_buffer = 17',
            "21:19: train.overlong_buffer: is 17; must be at most rollout.max_new_tokens, which "
            "is 16",
        ),
        (
            GAE.replace("prompt = 4", "prompt = 1\ndynamic_sampling_rounds = 1"),
            "11:27: rollout.dynamic_sampling_rounds: replaces groups whose rewards are all equal, "
            "as those of a group of one always are",
        ),
        (
            GAE + "warmup_steps = 10",
            "21:16: critic.warmup_steps: is 10; must be below run.steps, which is 10",
        ),
    ],
)
def test_a_broken_rule(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_text(tmp_path, text)
    (line,) = map(str, caught.value.problems)
    assert f"run.toml:{expected}" in line


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("importance_cap", "0", "train.importance_cap: "),
        ("entropy_bonus", "-0.1", "train.entropy_bonus: "),
        ("horizon", "0", "train.horizon: "),
        ("reduction", '"mean"', "train.reduction: "),
        ("anchor", '"reference"', "train.anchor: "),
        ("overlong", '"drop"', "train.overlong: "),
        ("overlong_buffer", "0", "train.overlong_buffer: "),
    ],
)
def test_a_value_out_of_bounds(tmp_path: Path, key: str, value: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_text(tmp_path, PLAIN + f"{key} = {value}")
    (line,) = map(str, caught.value.problems)
    assert f"run.toml:20:{len(key) + 4}: {expected}" in line


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("reference", "coefficient = 0"),
        ("reference", 'kl = "k4"'),
        ("critic", "learning_rate = 0"),
        ("critic", "warmup_steps = -1"),
        ("critic", "value_clip = -0.1"),
    ],
)
def test_a_value_of_an_added_section_out_of_bounds(tmp_path: Path, section: str, key: str) -> None:
    base = PLAIN if section == "reference" else PLAIN.replace("group_mean", "gae")
    with pytest.raises(SpecError) as caught:
        load_text(tmp_path, base + f"[{section}]\n{key}")
    (line,) = map(str, caught.value.problems)
    assert f"run.toml:21:{key.index(' = ') + 4}: {section}.{key.split()[0]}: " in line


def test_an_override_that_breaks_a_rule_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_text(tmp_path, GAE, "objective.type=gspo")
    (line,) = map(str, caught.value.problems)
    assert line.startswith("--set objective.type=gspo: objective.type: is 'gspo'")


def test_a_critic_can_be_added_by_an_override(tmp_path: Path) -> None:
    text = PLAIN.replace("group_mean", "gae")
    assert load_text(tmp_path, text, "critic.learning_rate=1e-4") == ()
