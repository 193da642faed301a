"""The order of training prompts: epochs, ranks, cursors, and rows that are skipped."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drpo_cli.data import arithmetic
from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.split import split
from drpo_cli.data.pipeline.stream import Batching, Data, open_data
from drpo_cli.errors import UserError
from drpo_cli.settings import EvalSettings
from drpo_cli.types import Prompt
from support.data import PLAIN, SUMS, endless, flat, open_stream, rows_of, steps

LETTERS = "abcdefghijklmno"


def test_held_out_never_trains_and_everything_else_does_once_an_epoch() -> None:
    opened = open_stream(SUMS, n=9)
    held_out = {prompt.text for prompt in opened.held_out}
    assert len(held_out) == 10
    served = flat(steps(opened, 20))  # 90 training rows: two epochs
    everything = {row.prompt for row in arithmetic.load(arithmetic.Config(digits=1))}
    for epoch in (served[:90], served[90:]):
        assert set(epoch) == everything - held_out
        assert len(set(epoch)) == 90
    assert served[:90] != served[90:]


def test_held_out_does_not_depend_on_the_seed_and_the_order_does() -> None:
    one, other = open_stream(SUMS), open_stream(SUMS, seed=1)
    assert one.held_out == other.held_out
    assert flat(steps(one, 4)) != flat(steps(other, 4))
    assert flat(steps(open_stream(SUMS), 4)) == flat(steps(open_stream(SUMS), 4))


def test_split_agrees_with_the_stream() -> None:
    parts, opened = split([SUMS], [], 10), open_stream(SUMS, n=90)
    assert [p.prompt for p in parts.held_out] == [p.text for p in opened.held_out]
    assert {p.prompt for p in parts.train} == set(flat(steps(opened, 1)))


@pytest.mark.parametrize("world", [2, 4])
def test_order_does_not_depend_on_the_world_size(world: int) -> None:
    ranks = [open_stream(SUMS, rank=rank, world=world) for rank in range(world)]
    alone = open_stream(SUMS)
    for _ in range(30):  # into the third epoch, over two tails that are shorter than a step
        shares = [opened.stream.next() for opened in ranks]
        assert {len(share) for share in shares} == {8 // world}
        assert flat(shares) == flat([alone.stream.next()])


def test_a_row_that_comes_again_is_told_apart_by_its_epoch() -> None:
    """Seeds come from both, so the second time a row has other responses; on every rank alike."""
    step_P = open_stream(SUMS, n=200).stream.next()  # 90 rows
    assert {prompt.epoch for prompt in step_P} == {0, 1, 2}
    assert len({prompt.id for prompt in step_P}) == 90
    known = {(prompt.id, prompt.epoch) for prompt in step_P}
    assert len(known) == 200
    shares = [open_stream(SUMS, n=200, rank=rank, world=2).stream.next() for rank in range(2)]
    assert {(prompt.id, prompt.epoch) for share in shares for prompt in share} == known


@settings(max_examples=40)
@given(before=st.integers(0, 40), world=st.sampled_from([1, 2, 4]), weighted=st.booleans())
def test_a_saved_state_continues_on_any_world_size(
    tmp_path_factory: pytest.TempPathFactory, before: int, world: int, weighted: bool
) -> None:
    folder = tmp_path_factory.mktemp("stream")
    weights: tuple[float | None, ...] = (0.7, 0.2) if weighted else (None, None)
    sources = [
        rows_of(folder / "a.jsonl", *LETTERS, weight=weights[0], sampling="difficulty"),
        rows_of(folder / "b.jsonl", *LETTERS.upper(), "x" * 70, weight=weights[1], too_long="skip"),
    ]
    if weighted:
        sources.append(endless(folder, "n", weight=0.1))
    held_out = (rows_of(folder / "e.jsonl", "x", "y"),)

    def learn(*opened: Data, step: list[Prompt]) -> None:
        rates = {p.id: float(int(p.id.rpartition("/")[2]) % 3 == 0) for p in step}
        for data in opened:
            data.stream.observe(rates)

    first = open_stream(*sources, held_out=held_out)
    for _ in range(before):
        learn(first, step=first.stream.next())
    state = json.loads(json.dumps(first.stream.state_dict()))
    ranks = [
        open_stream(*sources, held_out=held_out, rank=rank, world=world) for rank in range(world)
    ]
    for data in ranks:
        data.stream.load_state_dict(state)
    for _ in range(15):
        step = first.stream.next()
        assert [prompt for data in ranks for prompt in data.stream.next()] == step
        learn(first, *ranks, step=step)
        for data in ranks:
            assert data.stream.state_dict() == first.stream.state_dict()


def test_a_cursor_of_other_data_is_refused(tmp_path: Path) -> None:
    other = open_stream(rows_of(tmp_path / "a.jsonl", *map(str, range(20))))
    message = r"made with jsonl \(20 rows\), now the training data is arithmetic \(100 rows\)"
    with pytest.raises(UserError, match=message):
        open_stream(SUMS).stream.load_state_dict(other.stream.state_dict())


def test_a_cursor_of_another_version_is_refused() -> None:
    with pytest.raises(UserError, match=r"by another version .*\(it has: epoch, position, rows\)"):
        open_stream(SUMS).stream.load_state_dict({"epoch": 0, "position": 5, "rows": 100})


def test_sources_mix_and_their_ids_differ(tmp_path: Path) -> None:
    words = rows_of(tmp_path / "a.jsonl", *(f"a{i}" for i in range(40)))
    more = rows_of(tmp_path / "b.jsonl", *(f"b{i}" for i in range(40)), template="<{{ prompt }}>")
    opened = open_stream(SUMS, words, more, n=170)
    assert opened.train_rows == 180
    (served,) = steps(opened, 1)
    by_source = {p.id.split("/")[0] for p in served[:60]}
    assert by_source == {"arithmetic", "jsonl", "jsonl#2"}
    assert len({p.id for p in served + opened.held_out}) == 180
    assert all(p.text == f"<b{p.id.split('/')[1]}>" for p in served if p.id.startswith("jsonl#2"))


def test_an_endless_source_is_read_in_its_own_order_and_continues(tmp_path: Path) -> None:
    source = endless(tmp_path, "n")
    opened = open_stream(source, n=4)
    assert [p.text for p in opened.held_out] == [f"n{i}" for i in range(10)]
    assert flat(steps(opened, 2)) == [f"n{i}" for i in range(10, 18)]
    again = open_stream(source, n=4)
    again.stream.load_state_dict(json.loads(json.dumps(opened.stream.state_dict())))
    assert flat(steps(again, 1)) == [f"n{i}" for i in range(18, 22)]


def test_held_out_content_of_an_endless_source_is_skipped(tmp_path: Path) -> None:
    opened = open_stream(endless(tmp_path, "n", distinct=13), n=6)
    assert flat(steps(opened, 1)) == ["n10", "n11", "n12"] * 2


def test_prompts_must_divide_among_ranks() -> None:
    with pytest.raises(UserError, match="prompts_per_step = 8 does not divide among 3"):
        open_stream(SUMS, world=3)


def test_too_long_prompts_are_skipped_alike_on_every_rank(tmp_path: Path) -> None:
    prompts = [f"{i:02d}" if i % 3 else f"{i:02d}" * 40 for i in range(60)]
    source = rows_of(tmp_path / "a.jsonl", *prompts, too_long="skip")
    ranks = [open_stream(source, rank=rank, world=2) for rank in range(2)]
    alone = open_stream(source)
    for _ in range(12):
        together = flat([opened.stream.next() for opened in ranks])
        assert together == flat([alone.stream.next()])
        assert all(len(text) == 2 for text in together)
    with pytest.raises(UserError, match="all 10 held-out prompts are skipped by too_long"):
        open_data([source], (), EvalSettings(problems=10), Prompts(PLAIN, 1), Batching(8, 0))


def test_prompts_outside_the_limits_are_skipped_and_counted(tmp_path: Path) -> None:
    limits = {"min_prompt_tokens": 3, "max_prompt_tokens": 5}
    source = rows_of(tmp_path / "a.jsonl", *("x" * n for n in range(1, 9)), **limits)
    evaluation = rows_of(tmp_path / "e.jsonl", "a", "bbb", "cccccc", **limits)
    opened = open_stream(source, n=3, held_out=(evaluation,))
    assert [p.text for p in opened.held_out] == ["bbb"]
    assert opened.held_out_skipped == {"min_prompt_tokens": 1, "max_prompt_tokens": 1}
    for _ in range(3):
        assert sorted(flat(steps(opened, 1))) == ["xxx", "xxxx", "xxxxx"]
    opened.stream.next()  # three epochs skip 2 and 3 rows each, and the fourth has begun
    skipped = opened.stream.skipped
    assert skipped == {"min_prompt_tokens": 3 * 2 + 2, "max_prompt_tokens": 3 * 3 + 2}
    again = open_stream(source, n=3, held_out=(evaluation,))
    again.stream.load_state_dict(opened.stream.state_dict())
    assert again.stream.skipped == skipped


def test_one_prompt_that_fits_is_enough(tmp_path: Path) -> None:
    source = rows_of(tmp_path / "a.jsonl", *("x" * 70 for _ in range(5)), "fits", too_long="skip")
    evaluation = rows_of(tmp_path / "e.jsonl", "other")
    opened = open_stream(source, n=1, held_out=(evaluation,))
    assert flat(steps(opened, 50)) == ["fits"] * 50


def test_no_prompt_that_fits(tmp_path: Path) -> None:
    source = rows_of(tmp_path / "a.jsonl", *("x" * n for n in range(70, 90)), too_long="skip")
    evaluation = rows_of(tmp_path / "e.jsonl", "x")
    opened = open_stream(source, held_out=(evaluation,))
    with pytest.raises(UserError, match="every prompt of source jsonl is skipped by too_long"):
        opened.stream.next()


def test_the_search_in_an_endless_source_without_a_prompt_that_fits_ends(tmp_path: Path) -> None:
    evaluation = rows_of(tmp_path / "e.jsonl", "x")
    opened = open_stream(endless(tmp_path, "n", min_prompt_tokens=50), held_out=(evaluation,))
    with pytest.raises(UserError, match=r"source n.py is skipped by min_prompt_tokens"):
        opened.stream.next()
