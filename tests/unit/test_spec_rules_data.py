"""Rules about data sources and rewards: each is broken once, and points at the right key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.specs import (
    DATA,
    DRPO,
    HEAD,
    REWARD,
    ROLLOUT,
    plugin_folder,
    problem,
    problems,
    warnings,
)

TAIL = f"""
{ROLLOUT}{REWARD}{REWARD}name = "short"
weight = 0
{REWARD}name = "cut"
gate = true
"""
HELD_OUT = '[[eval.data]]\ntype = "arithmetic"\n'
ALL = 'rewards = ["exact_match", "cut"]\n'


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(DATA, id="plain"),
        pytest.param(DATA + "template = 'Q: {{ prompt }} {x} {{ topic }}'", id="a template"),
        pytest.param(DATA + "template = '{% if prompt %}{{ prompt|trim }}{% endif %}'", id="if"),
        pytest.param(DATA + "few_shot = [{ prompt = '1', answer = '2' }]", id="an example"),
        pytest.param(DATA + "weight = 0.5\n" + DATA + "weight = 2", id="every weight"),
        pytest.param(DATA + "min_prompt_tokens = 5\nmax_prompt_tokens = 5", id="one length"),
        pytest.param(DATA + ALL, id="rewards"),
        pytest.param(DATA + ALL + DATA + 'rewards = ["exact_match", "short"]', id="two of them"),
        pytest.param(DATA + 'sampling = "difficulty"', id="a curriculum"),
        pytest.param(DATA + '[eval]\noverlap = "drop"\n' + HELD_OUT, id="a dropped overlap"),
        pytest.param(DATA + HELD_OUT + 'rewards = ["exact_match"]', id="rewards of evaluation"),
    ],
)
def test_data_that_breaks_no_rule(tmp_path: Path, data: str) -> None:
    assert warnings(tmp_path, HEAD + data + TAIL) == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (DATA + "template = 'x'", "8:12: data[0].template: has no {{ prompt }}"),
        (
            DATA + "template = '{prompt}'",
            "8:12: data[0].template: is a Jinja template: write {{ prom",
        ),
        (
            DATA + "template = '''\n{{ prompt }}\n{% if x %}\n'''",
            "8:12: data[0].template: is not a Jinja template: line 2: Unexpected end of template",
        ),
        (
            DATA + "template = '{{ prompt|x }}'",
            "8:12: data[0].template: is not a Jinja template: line",
        ),
        (
            DATA + "template = '{{ prompt }} {{ answer }}'",
            "8:12: data[0].template: asks for the answer, which no template gets",
        ),
        (DATA + HELD_OUT + "template = 'x'", "10:12: eval.data[0].template: has no {{ prompt }}"),
        (
            DATA + "min_prompt_tokens = 6\nmax_prompt_tokens = 5",
            "8:21: data[0].min_prompt_tokens: is 6; must be at most max_prompt_tokens, which is 5",
        ),
        (
            DATA + DATA + "weight = 1",
            "10:10: data[0].weight: is missing, and other [[data]] have one",
        ),
        (DATA + HELD_OUT + "weight = 1", "10:1: eval.data[0].weight: has no effect here"),
        (
            DATA + HELD_OUT + "sampling = 'difficulty'",
            "10:1: eval.data[0].sampling: has no effect here",
        ),
        (
            DATA + "[eval]\noverlap = 'drop'",
            "9:1: eval.overlap: has no effect without",
        ),
        (
            DATA + ALL.replace("cut", "cat"),
            "8:27: data[0].rewards[1]: is 'cat', and no [[reward]] has this name; "
            "there are: exact_match, short, cut",
        ),
        (
            DATA + HELD_OUT + "rewards = ['right']",
            "10:12: eval.data[0].rewards[0]: is 'right', and no [[reward]] has this name",
        ),
        (
            DATA + "rewards = ['short', 'cut']\n" + DATA,
            "8:11: data[0].rewards: has no reward that adds to the total",
        ),
        (DATA + "rewards = []\n" + DATA, "8:11: data[0].rewards: has no reward that adds to the"),
        (
            DATA + HELD_OUT + "rewards = ['short']",
            "10:11: eval.data[0].rewards: has no reward that adds to the total",
        ),
    ],
)
def test_data_that_breaks_a_rule(tmp_path: Path, data: str, expected: str) -> None:
    line = problem(tmp_path, HEAD + data + TAIL)
    assert line.startswith(f"run.toml:{expected}")


def test_every_source_without_its_weight_is_named(tmp_path: Path) -> None:
    lines = problems(tmp_path, HEAD + DATA + DATA + "weight = 1\n" + DATA + TAIL)
    assert [line.split(": ")[1] for line in lines] == ["data[0].weight", "data[2].weight"]


@pytest.mark.parametrize(
    ("data", "warned"),
    [
        (DATA + "rewards = ['exact_match']", ["reward[2].name"]),
        (DATA + "rewards = ['exact_match']\n" + DATA, []),
        (DATA + ALL + HELD_OUT, []),
    ],
)
def test_a_reward_that_no_source_asks_for(tmp_path: Path, data: str, warned: list[str]) -> None:
    found = warnings(tmp_path, HEAD + data + TAIL)
    assert [line.split(": ")[1] for line in found] == warned
    assert all("which no [[data]] names among its rewards" in line for line in found)


def test_rules_are_checked_together_with_keys_that_are_wrong(tmp_path: Path) -> None:
    wrong = "template = 3\nmin_prompt_tokens = 9\nmax_prompt_tokens = 8"
    lines = problems(tmp_path, HEAD + DATA + wrong + TAIL)
    keys = [line.split(": ")[1] for line in lines]
    assert keys == ["data[0].template", "data[0].min_prompt_tokens"]


def test_a_reward_of_an_unknown_type_may_have_any_name(tmp_path: Path) -> None:
    text = HEAD + DATA + 'rewards = ["exact_match"]\n' + ROLLOUT + REWARD
    line = problem(tmp_path, text.replace('type = "exact', 'type = "exat'))
    assert "did you mean 'exact_match'?" in line


def spec(first: str = "", second: str = "") -> str:
    """A spec whose two rewards have these options."""
    one, other = (more or "workers = 2" for more in (first, second))
    return (
        f'{HEAD}{DATA}{ROLLOUT}[[reward]]\ntype = "./rewards.py:good"\n{one}\n'
        f'[[reward]]\ntype = "./rewards.py:better"\n{other}\n{DRPO}'
    )


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
def test_rewards_that_make_a_total(tmp_path: Path, first: str, second: str) -> None:
    assert warnings(plugin_folder(tmp_path), spec(first, second)) == []


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            "weight = 0",
            "weight = 0.0",
            "run.toml:14:10: reward[0].weight: is 0, and so is every other weight, so nothing",
        ),
        (
            "weight = 0",
            "gate = true",
            "run.toml:14:10: reward[0].weight: leaves only gates: they multiply",
        ),
        ("gate = true", "gate = true", "leaves only gates"),
        (
            'name = "a"',
            'name = "a"',
            "run.toml:17:8: reward[1].name: is 'a', like the name of an earlier reward; give each",
        ),
        (
            "",
            "gate = true\nweight = 2.0",
            "run.toml:18:10: reward[1].weight: is 2, but a gate multiplies the sum of the",
        ),
        ("", "gate = true\nweight = 0", "reward[1].weight: is 0, but a gate multiplies"),
        (
            "",
            "every = 3",
            "run.toml:17:9: reward[1].every: is 3, and the total needs this reward in every step",
        ),
        ("", "every = 3\ngate = true", "reward[1].every: is 3, and the total needs this"),
        ("", 'on_error = "skip"', "reward[1].on_error: "),
        ("", "timeout_s = 0", "reward[1].timeout_s: "),
        ("", "tries = 0", "reward[1].tries: "),
        ("", "workers = 0", "reward[1].workers: "),
        ("", "concurrency = 0", "reward[1].concurrency: "),
    ],
)
def test_rewards_that_make_no_total(tmp_path: Path, first: str, second: str, expected: str) -> None:
    assert expected in problem(plugin_folder(tmp_path), spec(first, second))


@pytest.mark.parametrize(
    ("data", "tokenizer", "expected"),
    [
        ("template = '<s>{{ prompt }}'", {"add_bos_token": True}, "begins with '<s>', which"),
        ("template = '<s>{{ prompt }}'", {"bos_token": {"content": "<s>"}}, "begins with '<s>'"),
        ("chat = true\nadd_special_tokens = true", {"add_bos_token": True}, "is true: the token"),
        ("template = '<s>{{ prompt }}'", {"add_bos_token": False}, None),
        ("template = '<s>{{ prompt }}'\nadd_special_tokens = false", {}, None),
        ("template = '<s>{{ prompt }}'", {"bos_token": None}, None),
        ("template = 'Q: {{ prompt }}'", {}, None),
    ],
)
def test_a_template_with_the_bos_that_the_tokenizer_adds(
    tmp_path: Path, data: str, tokenizer: dict[str, Any], expected: str | None
) -> None:
    (tmp_path / "model").mkdir()
    config = {"bos_token": "<s>", **tokenizer}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "tokenizer.json").write_text('{"post_processor": {"single": ["<s>"]}}')
    head = HEAD.replace("some-org/some-model", "./model")
    found = warnings(tmp_path, head + DATA + data + "\n" + TAIL)
    assert len(found) == (expected is not None)
    assert all(str(expected) in line for line in found)
