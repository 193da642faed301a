"""`sampling = "difficulty"`: which rows rest, and what is counted."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from drpo_cli.data.pipeline.rows import Source
from drpo_cli.data.pipeline.stream import Curriculum, Data
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem, Prompt
from support.data import ids, open_stream, rows_of, steps

ROWS = 60


def opened(folder: Path, rows: int = ROWS, **place: int) -> Data:
    """Rows with a curriculum beside as many without."""
    hard = rows_of(folder / "a.jsonl", *(f"a{i}" for i in range(rows)), sampling="difficulty")
    plain = rows_of(folder / "b.jsonl", *(f"b{i}" for i in range(rows)))
    evaluation = rows_of(folder / "e.jsonl", "x")
    return open_stream(hard, plain, held_out=(evaluation,), **place)


def rate(prompt: Prompt) -> float:
    """Rows of a number divisible by three are always right, by five always wrong."""
    number = int(prompt.id.rpartition("/")[2])
    return 1.0 if number % 3 == 0 else 0.0 if number % 5 == 0 else 0.5


def rates(step: list[Prompt]) -> Mapping[str, float]:
    return {prompt.id: rate(prompt) for prompt in step}


def times(data: Data, wanted: int) -> dict[str, int]:
    """How often each row is served in `wanted` steps after all have been observed."""
    served = {f"{name}/{i}": 0 for name in ("jsonl", "jsonl#2") for i in range(ROWS)}
    while data.stream.rows_by_rate["unseen"]:
        data.stream.observe(rates(data.stream.next()))
    for id in ids(steps(data, wanted)):
        served[id] += 1
    return served


def test_rows_that_teach_nothing_come_a_quarter_as_often(tmp_path: Path) -> None:
    served = times(opened(tmp_path, n=12), 400)
    easy = [n for id, n in served.items() if id.startswith("jsonl/") and _settled(id)]
    rest = [n for id, n in served.items() if not (id.startswith("jsonl/") and _settled(id))]
    assert len(easy) == 28
    assert max(rest) - min(rest) <= 2  # every epoch but the first and last, cut, ones
    epochs = sum(rest) / len(rest)
    expected = epochs * len(easy) / 4
    assert abs(sum(easy) - expected) < 4 * (expected * 3 / 4) ** 0.5
    assert max(easy) < min(rest)


def _settled(id: str) -> bool:
    number = int(id.rpartition("/")[2])
    return number % 3 == 0 or number % 5 == 0


def test_a_row_that_teaches_again_comes_as_often_as_before(tmp_path: Path) -> None:
    data = opened(tmp_path, n=120)
    first = data.stream.next()
    data.stream.observe({prompt.id: 1.0 for prompt in first})
    data.stream.observe({prompt.id: 0.5 for prompt in first})
    assert {*ids(steps(data, 1))} == {prompt.id for prompt in first}


def test_the_rest_depends_on_seed_and_epoch_and_ends() -> None:
    config = SourceSettings(sampling="difficulty")
    source = Source("own", config, [Problem(str(i)) for i in range(ROWS)])

    def resting(seed: int, epoch: int) -> frozenset[str]:
        curriculum = Curriculum(seed, [source], [])
        curriculum.observe({row.id: 1.0 for row in source})
        return frozenset(row.id for row in source if curriculum.rests(row, epoch))

    assert resting(0, 1) == resting(0, 1)
    assert len({resting(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9
    assert frozenset.intersection(*(resting(0, epoch) for epoch in range(40))) == frozenset()


def test_rows_are_counted_by_their_last_pass_rate(tmp_path: Path) -> None:
    data = opened(tmp_path, n=120)
    names = ("unseen", "always_wrong", "between", "always_right")
    assert data.stream.rows_by_rate == dict(zip(names, (60, 0, 0, 0), strict=True))
    data.stream.observe(rates(data.stream.next()))
    assert data.stream.rows_by_rate == dict(zip(names, (0, 8, 32, 20), strict=True))
    hard = rows_of(tmp_path / "h.jsonl", *map(str, range(30)), sampling="difficulty")
    assert open_stream(hard).stream.rows_by_rate["unseen"] == 20  # ten are held out
    uniform = rows_of(tmp_path / "u.jsonl", *map(str, range(30)))
    assert open_stream(uniform).stream.rows_by_rate == {}


def test_a_rate_is_a_share(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pass rate of jsonl/3 is 1.5, not in \[0, 1\]"):
        opened(tmp_path).stream.observe({"jsonl/3": 1.5})


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_rows_that_are_all_learned_are_served_all_the_same(tmp_path: Path, rows: int) -> None:
    source = rows_of(tmp_path / "a.jsonl", *map(str, range(rows)), sampling="difficulty")
    evaluation = rows_of(tmp_path / "e.jsonl", "x")
    data = open_stream(source, n=4, held_out=(evaluation,))
    seen = set()
    for _ in range(100):
        step = data.stream.next()
        assert len(step) == 4
        seen |= {prompt.id for prompt in step}
        data.stream.observe({prompt.id: 1.0 for prompt in step})
    assert len(seen) == rows
