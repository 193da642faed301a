"""Rules on data sources: each broken once, and tied to the right key."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli.spec import SpecError, load

HEAD = """\
[run]
name = "test"
steps = 10
[model]
path = "some-org/some-model"
"""
TAIL = """
[rollout]
prompts_per_step = 8
samples_per_prompt = 4
max_new_tokens = 16
[[reward]]
type = "exact_match"
[[reward]]
type = "exact_match"
name = "short"
weight = 0
[[reward]]
type = "exact_match"
name = "cut"
gate = true
"""
ONE = '[[data]]\ntype = "arithmetic"\n'
HELD_OUT = '[[eval.data]]\ntype = "arithmetic"\n'
ALL = 'rewards = ["exact_match", "cut"]\n'


def warnings_of(folder: Path, data: str) -> tuple[str, ...]:
    path = folder / "run.toml"
    path.write_text(HEAD + data + TAIL, encoding="utf-8")
    return tuple(map(str, load(path).warnings))


def broken(folder: Path, data: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        warnings_of(folder, data)
    return [line.partition("run.toml:")[2] for line in map(str, caught.value.problems)]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(ONE, id="plain"),
        pytest.param(ONE + "template = 'Q: {{ prompt }} {x} {{ topic }}'", id="a template"),
        pytest.param(ONE + "template = '{% if prompt %}{{ prompt|trim }}{% endif %}'", id="filter"),
        pytest.param(ONE + "few_shot = [{ prompt = '1', answer = '2' }]", id="an example"),
        pytest.param(ONE + "weight = 0.5\n" + ONE + "weight = 2", id="every weight"),
        pytest.param(ONE + "min_prompt_tokens = 5\nmax_prompt_tokens = 5", id="one length"),
        pytest.param(ONE + ALL, id="rewards"),
        pytest.param(ONE + ALL + ONE + 'rewards = ["exact_match", "short"]', id="two of them"),
        pytest.param(ONE + 'sampling = "difficulty"', id="a curriculum"),
        pytest.param(ONE + '[eval]\noverlap = "drop"\n' + HELD_OUT, id="a dropped overlap"),
        pytest.param(ONE + HELD_OUT + 'rewards = ["exact_match"]', id="rewards of evaluation"),
    ],
)
def test_what_is_sound_is_let_through(tmp_path: Path, data: str) -> None:
    assert warnings_of(tmp_path, data) == ()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ONE + "template = 'x'", "8:12: data[0].template: has no {{ prompt }}"),
        (
            ONE + "template = '{prompt}'",
            "8:12: data[0].template: is a Jinja template: write {{ prom",
        ),
        (
            ONE + "template = '''\n{{ prompt }}\n{% if x %}\n'''",
            "8:12: data[0].template: is not a Jinja template: line 2: Unexpected end of template",
        ),
        (
            ONE + "template = '{{ prompt|x }}'",
            "8:12: data[0].template: is not a Jinja template: line",
        ),
        (
            ONE + "template = '{{ prompt }} {{ answer }}'",
            "8:12: data[0].template: asks for the answer, which no template gets",
        ),
        (ONE + HELD_OUT + "template = 'x'", "10:12: eval.data[0].template: has no {{ prompt }}"),
        (
            ONE + "min_prompt_tokens = 6\nmax_prompt_tokens = 5",
            "8:21: data[0].min_prompt_tokens: is 6; must be at most max_prompt_tokens, which is 5",
        ),
        (
            ONE + ONE + "weight = 1",
            "10:10: data[0].weight: is missing, and other [[data]] have one",
        ),
        (ONE + HELD_OUT + "weight = 1", "10:1: eval.data[0].weight: has no use here"),
        (
            ONE + HELD_OUT + "sampling = 'difficulty'",
            "10:1: eval.data[0].sampling: has no use here",
        ),
        (ONE + "[eval]\noverlap = 'drop'", "9:1: eval.overlap: has no use without [[eval.data]]"),
        (
            ONE + ALL.replace("cut", "cat"),
            "8:27: data[0].rewards[1]: is 'cat', and no [[reward]] has this name; "
            "there are: exact_match, short, cut",
        ),
        (
            ONE + HELD_OUT + "rewards = ['right']",
            "10:12: eval.data[0].rewards[0]: is 'right', and no [[reward]] has this name",
        ),
        (
            ONE + "rewards = ['short', 'cut']\n" + ONE,
            "8:11: data[0].rewards: has no reward that adds to the total",
        ),
        (ONE + "rewards = []\n" + ONE, "8:11: data[0].rewards: has no reward that adds to the"),
        (
            ONE + HELD_OUT + "rewards = ['short']",
            "10:11: eval.data[0].rewards: has no reward that adds to the total",
        ),
    ],
)
def test_a_broken_rule(tmp_path: Path, data: str, expected: str) -> None:
    (line,) = broken(tmp_path, data)
    assert line.startswith(expected)


def test_every_source_without_its_weight_is_named(tmp_path: Path) -> None:
    lines = broken(tmp_path, ONE + ONE + "weight = 1\n" + ONE)
    assert [line.split(": ")[1] for line in lines] == ["data[0].weight", "data[2].weight"]


@pytest.mark.parametrize(
    ("data", "warned"),
    [
        (ONE + "rewards = ['exact_match']", ["reward[2].name"]),
        (ONE + "rewards = ['exact_match']\n" + ONE, []),
        (ONE + ALL + HELD_OUT, []),
    ],
)
def test_a_reward_that_no_source_asks_for(tmp_path: Path, data: str, warned: list[str]) -> None:
    found = warnings_of(tmp_path, data)
    assert [line.split(": ")[1] for line in found] == warned
    assert all("which no [[data]] names among its rewards" in line for line in found)


def test_rules_over_sound_keys_are_checked_beside_keys_that_failed(tmp_path: Path) -> None:
    lines = broken(tmp_path, ONE + "template = 3\nmin_prompt_tokens = 9\nmax_prompt_tokens = 8")
    keys = [line.split(": ")[1] for line in lines]
    assert keys == ["data[0].template", "data[0].min_prompt_tokens"]
