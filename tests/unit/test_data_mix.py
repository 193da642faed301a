"""Sources with weights: their shares of the order."""

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpo_cli.data.pipeline.stream import PromptStream, Turns
from drpo_cli.errors import UserError
from support.data import SUMS, endless, flat, open_stream, rows_of, steps

WEIGHTS = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@given(WEIGHTS)
def test_every_cycle_gives_each_source_exactly_its_weight(weights: list[int]) -> None:
    turns = Turns(weights)
    for _ in range(3):
        assert Counter(turns.next() for _ in range(sum(weights))) == Counter(
            dict(enumerate(weights))
        )


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6), st.integers(1, 200))
def test_no_source_is_a_turn_ahead_of_its_share(weights: list[float], count: int) -> None:
    turns = Turns(weights)
    exact = [Fraction(repr(weight)) for weight in weights]
    for turn in range(1, count + 1):
        turns.next()
        for taken, weight in zip(turns.taken, exact, strict=True):
            share = turn * weight / sum(exact)
            assert share - (len(weights) - 1) < taken < share + 1


def test_turns_are_spread_out_and_decimal_weights_are_exact() -> None:
    decimals, whole = Turns([0.7, 0.2, 0.1]), Turns([7, 2, 1])
    cycle = [decimals.next() for _ in range(10)]
    assert cycle == [0, 0, 1, 0, 0, 2, 0, 0, 1, 0]
    for _ in range(10):
        assert [whole.next() for _ in range(10)] == cycle
    for _ in range(10):
        assert [decimals.next() for _ in range(10)] == cycle


def test_each_source_has_its_share_of_every_step_and_its_own_epochs(tmp_path: Path) -> None:
    few = rows_of(tmp_path / "a.jsonl", *"abcd", weight=3)
    many = endless(tmp_path, "n", weight=1)
    evaluation = rows_of(tmp_path / "e.jsonl", "x")
    opened = open_stream(few, many, held_out=(evaluation,))
    served = []
    for step in steps(opened, 6):
        names = Counter(prompt.id.split("/")[0] for prompt in step)
        assert names == {"jsonl": 6, "n.py": 2}
        served += flat([step])
    words = [text for text in served if text in "abcd"]
    epochs = [words[at : at + 4] for at in range(0, 36, 4)]
    assert all(sorted(epoch) == [*"abcd"] for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1
    assert [text for text in served if text not in words] == [f"n{i}" for i in range(12)]


def test_sources_of_equal_length_are_shuffled_differently(tmp_path: Path) -> None:
    sources = [rows_of(tmp_path / f"{w}.jsonl", *map(str, range(50)), weight=1) for w in "ab"]
    evaluation = rows_of(tmp_path / "e.jsonl", "x")
    (served,) = steps(open_stream(*sources, n=100, held_out=(evaluation,)), 1)
    one, other = (
        [p.text for p in served if p.id.startswith(f"{n}/")] for n in ("jsonl", "jsonl#2")
    )
    assert sorted(one) == sorted(other) and one != other


def test_a_skipped_row_costs_its_source_no_turn(tmp_path: Path) -> None:
    short = rows_of(tmp_path / "a.jsonl", *("x" * n for n in range(1, 30)), weight=1)
    limits = {"max_prompt_tokens": 3, "weight": 1}
    picky = rows_of(tmp_path / "b.jsonl", *("y" * n for n in range(1, 30)), **limits)
    evaluation = rows_of(tmp_path / "e.jsonl", "z")
    for step in steps(open_stream(short, picky, held_out=(evaluation,)), 10):
        assert Counter(prompt.text[0] for prompt in step) == {"x": 4, "y": 4}


def test_a_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    def opened(weight: float | None) -> PromptStream:
        sources = [rows_of(tmp_path / f"{w}.jsonl", *"abc" + w, weight=weight) for w in "xy"]
        return open_stream(*sources, problems=1).stream

    message = r"made with jsonl \(4 rows, weight 2\).* now .* jsonl \(4 rows, weight 3\)"
    with pytest.raises(UserError, match=message):
        opened(3).load_state_dict(opened(2).state_dict())
    with pytest.raises(UserError, match=r"weight 2.* now .* jsonl \(4 rows\)"):
        opened(None).load_state_dict(opened(2).state_dict())


def test_the_weight_of_a_single_source_has_no_effect(tmp_path: Path) -> None:
    config = SUMS.config.model_copy(update={"weight": 5.0})
    weighted = type(SUMS)(SUMS.kind, SUMS.type, config)
    assert flat(steps(open_stream(weighted), 9)) == flat(steps(open_stream(SUMS), 9))
