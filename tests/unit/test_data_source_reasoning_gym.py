"""Problems of reasoning-gym, row by row, and the messages for mistakes."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError
from reasoning_gym.factory import DATASETS, create_dataset

from drpo_cli import plugins
from drpo_cli.data import reasoning_gym
from drpo_cli.data.pipeline.rows import open_sources
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards import reasoning_gym as scoring
from drpo_cli.types import Problem


def load(**options: Any) -> Sequence[Problem]:
    return reasoning_gym.load(reasoning_gym.Config.model_validate(options))


def test_reasoning_gym_is_seeded_and_scored_by_its_own_task() -> None:
    def rows(**options: Any) -> list[Problem]:
        return list(load(task="chain_sum", size=5, **options))

    assert [r.prompt for r in rows()] == [r.prompt for r in rows()]
    assert [r.prompt for r in rows()] != [r.prompt for r in rows(seed=1)]
    short = {"min_terms": 2, "max_terms": 2}
    for row in rows(options=short):
        assert len(row.metadata["entry"]["metadata"]["expression"].split()) == 3
    score = plugins.load("rewards", "reasoning_gym")
    for row in rows(options=short):
        for completion, expected in ((row.answer, 1.0), ("x", 0.0)):
            got = score.entry(completion, row.metadata, score.Config())
            assert got == expected


def test_reasoning_gym_mistakes() -> None:
    with pytest.raises(UserError, match="no task 'chainsum'; did you mean 'chain_sum'"):
        reasoning_gym.load(reasoning_gym.Config(task="chainsum"))
    for options in ({"terms": 2}, {"min_terms": -1}, {"min_terms": "two"}):
        with pytest.raises(UserError, match="task 'chain_sum' refuses its options"):
            reasoning_gym.load(reasoning_gym.Config(task="chain_sum", options=options))


def test_without_a_size_it_is_endless() -> None:
    rows = load(task="chain_sum")
    assert len(rows) == 2**31 - 1
    assert rows[7] == load(task="chain_sum", size=8)[7]
    assert rows[-1].metadata["entry"]["metadata"]["source_index"] == 2**31 - 2
    assert rows[10**9] == load(task="chain_sum")[10**9]


@pytest.mark.parametrize("task", ["acre", "gsm_symbolic", "list_functions", "word_ladder"])
def test_tasks_that_plan_ahead_need_a_size(task: str) -> None:
    with pytest.raises(
        UserError, match=f"task '{task}' plans its rows ahead.*set size to the number"
    ):
        load(task=task)
    assert load(task=task, size=5)[4].prompt
    with pytest.raises(UserError, match=f"task '{task}' plans its rows ahead"):
        load(tasks=[{"task": "chain_sum"}, {"task": task}])


def test_row_that_cannot_be_made_is_named() -> None:
    lengths = {"min_word_length": 3, "max_word_length": 3}
    lengths |= {"min_chain_length": 40, "max_chain_length": 40}
    rows = load(task="word_ladder", size=2, options=lengths)
    with pytest.raises(UserError, match=r"'word_ladder' cannot make row 0 with options.*change"):
        rows[0]


def test_tasks_mix_by_weight() -> None:
    tasks = [
        {"task": "chain_sum", "weight": 3, "options": {"min_terms": 2, "max_terms": 2}},
        {"task": "spell_backward", "level": 1},
    ]
    rows = load(tasks=tasks, seed=5)
    shares = Counter(rows[i].metadata["task"] for i in range(2000))
    # 1500 expected, a standard deviation of 19
    assert 1400 < shares["chain_sum"] < 1600
    assert shares["chain_sum"] + shares["spell_backward"] == 2000
    again = load(tasks=tasks, seed=5, size=50)
    assert [again[i] for i in (30, 3)] == [rows[i] for i in (30, 3)]
    order = [row.metadata["task"] for row in again]
    assert order != [row.metadata["task"] for row in load(tasks=tasks, seed=6, size=50)]
    score = plugins.load("rewards", "reasoning_gym")
    assert all(score.entry(row.answer, row.metadata, score.Config()) == 1.0 for row in again)


def test_level_sets_what_the_curriculum_says() -> None:
    def options(**given: Any) -> dict[str, Any]:
        return dict(load(task="chain_sum", size=1, **given)[0].metadata["options"])

    assert options() == {}
    terms, digits = {"min_terms": 2, "max_terms": 2}, {"min_digits": 1, "max_digits": 1}
    assert options(level=0) == terms | digits
    # beyond the last level of one of the two, that one stays at its last
    assert options(level=10)["max_terms"] == 12
    assert options(level=10)["max_digits"] == 10
    assert options(level={"num_digits": 2}) == {"min_digits": 1, "max_digits": 3}
    assert options(level={"num_digits": 2}, options={"min_digits": 3})["min_digits"] == 3
    seen = [
        row.metadata["entry"]["metadata"]["num_digits"]
        for row in load(task="chain_sum", size=60, level={"num_digits": 2})
    ]
    assert set(seen) == {1, 2, 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"task": "chain_sum", "level": 11},
            "'chain_sum' has no level 11; its levels are num_terms 0 to 10, num_digits 0 to 9",
        ),
        ({"task": "chain_sum", "level": {"num_digits": 10}}, "no level {'num_digits': 10}; its"),
        ({"task": "chain_sum", "level": {"terms": 1}}, "no level {'terms': 1}; its levels are"),
        (
            {"task": "acre", "size": 4, "level": 1},
            "'acre' has no levels; make it harder with options: they are train",
        ),
        ({"task": "caesar_cipher", "level": 3}, "refuses its options: rotation must be in range"),
        ({"tasks": [{"task": "chain_sum"}, {"task": "lgs"}]}, "no task 'lgs'; .*tasks: ab, acre"),
    ],
)
def test_mistakes_list_the_right_choices(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name one task"),
        ({"task": "chain_sum", "tasks": [{"task": "gcd"}]}, "name one task"),
        ({"tasks": [{"task": "gcd"}], "level": 1}, "move them into `tasks`"),
        ({"tasks": [{"task": "gcd"}], "options": {"min_value": 2}}, "move them into `tasks`"),
        ({"tasks": [{"task": "gcd", "weight": 0}]}, "greater than 0"),
        ({"task": "gcd", "level": -1}, "greater than or equal to 0"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        load(**options)


def test_every_row_can_be_recorded() -> None:
    config = reasoning_gym.Config(task="gsm_symbolic", size=40)
    (source,) = open_sources([Selected("data", "reasoning_gym", config)])
    rows = [row.problem.metadata for row in source]
    assert [json.loads(json.dumps(row))["task"] for row in rows] == ["gsm_symbolic"] * 40


def test_every_task_scores_a_recorded_row_as_it_scored_its_own() -> None:
    differing = {}
    for task in sorted(DATASETS.keys() - {"composite"}):
        made = create_dataset(task, seed=3, size=2)
        config = reasoning_gym.Config(task=task, seed=3, size=2)
        (source,) = open_sources([Selected("data", "reasoning_gym", config)])
        metadata = source[1].problem.metadata
        assert metadata == json.loads(json.dumps(metadata)), task
        for completion in (str(made[1]["answer"]), "(1, 2)", "no"):
            got = scoring.reward(completion, metadata, scoring.Config())
            if got != (own := _own_score(made, completion.strip())):
                differing[task, completion] = got, own
    assert differing == {}


def _own_score(made: Any, completion: str) -> float:
    try:
        return float(made.score_answer(completion, made[1]))
    except Exception:  # an answer in another form than the scorer's own
        return 0.0
