"""Which problems are held out, and which rows may not train because of it."""

from pathlib import Path

import pytest

from drpo_cli.data.pipeline.rows import hash_question
from drpo_cli.data.pipeline.split import PATIENCE, split
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected, absolute
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem
from support.data import SUMS, endless, flat, open_stream, rows_of, steps


def test_the_held_out_choice_does_not_depend_on_weights(tmp_path: Path) -> None:
    def held_out(*weights: float | None) -> list[str]:
        paths = [tmp_path / f"{i}.jsonl" for i in range(len(weights))]
        sources = [
            rows_of(path, *(f"{path.stem}.{i}" for i in range(20)), weight=weight)
            for path, weight in zip(paths, weights, strict=True)
        ]
        return [str(p.prompt) for p in split(sources, [], 8).held_out]

    assert held_out(None, None) == held_out(1, 1) == held_out(0.1, 9)


def test_equal_prompts_are_held_out_of_every_source(tmp_path: Path) -> None:
    evaluation = rows_of(tmp_path / "e.jsonl", "a", "b", "b")
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "b"}]
    first = rows_of(tmp_path / "1.jsonl", "a", "c", "A")
    second = rows_of(tmp_path / "2.jsonl", chat, "c")
    parts = split([first, second], [evaluation], 10, overlap="drop")
    assert sorted(str(p.prompt) for p in parts.held_out) == ["a", "b"]
    assert [p.prompt for p in parts.train] == ["c", "A", "c"]


def test_a_repeated_prompt_is_held_out_with_the_first(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "r.jsonl", "a", "b", "b")
    parts = split([rows], [], 1)
    assert [p.prompt for p in parts.held_out] == ["b"]
    assert [p.prompt for p in parts.train] == ["a"]


def test_training_rows_like_evaluation_problems_are_refused(tmp_path: Path) -> None:
    evaluation = rows_of(tmp_path / "e.jsonl", "a", "b")
    training = rows_of(tmp_path / "t.jsonl", "c", "c", "b", "d", "a")
    message = (
        r"row jsonl/2 asks the same as the held-out problem eval:jsonl/1 \(2 rows do so in all\)"
        '.*set eval.overlap = "drop"'
    )
    with pytest.raises(UserError, match=message):
        split([training], [evaluation], 10)
    clean = split([rows_of(tmp_path / "t.jsonl", "c", "c", "d")], [evaluation], 10)
    assert [p.prompt for p in clean.train] == ["c", "c", "d"]  # duplicates may train


def test_evaluation_sources_give_all_they_have(tmp_path: Path) -> None:
    evaluation = rows_of(tmp_path / "e.jsonl", "x", "y")
    opened = open_stream(SUMS, held_out=(evaluation,), problems=50)
    assert sorted(p.id for p in opened.held_out) == ["eval:jsonl/0", "eval:jsonl/1"]


def test_an_endless_source_holds_out_its_first_distinct_rows(tmp_path: Path) -> None:
    source = endless(tmp_path, "n", distinct=30)
    assert [p.prompt for p in split([source], [], 4).held_out] == ["n0", "n1", "n2", "n3"]
    few = split([SUMS], [source], 50)
    assert len(few.held_out) == 30  # all there are, found without reading all rows
    many = split([SUMS], [endless(tmp_path, "m")], PATIENCE + 5)
    assert len(many.held_out) == PATIENCE + 5


def test_endless_and_other_sources_are_held_out_in_turn(tmp_path: Path) -> None:
    few = rows_of(tmp_path / "a.jsonl", "a", "b", weight=9)
    parts = split([few, SUMS], [endless(tmp_path, "n"), few], 6, overlap="drop")
    order = [row.id.split("/")[0].removeprefix("eval:") for row in parts.held_out_rows]
    assert order == ["n.py", "jsonl", "n.py", "jsonl", "n.py", "n.py"]
    sums = [
        row.problem.prompt for row in split([few], [endless(tmp_path, "n"), SUMS], 12).held_out_rows
    ]
    assert sums[1::2] != [f"0+{i}=" for i in range(6)]  # the finite one is shuffled all the same


def test_nothing_left_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"each of the 100 rows.*eval.problems = 100.*lower eval.problems"
    ):
        split([SUMS], [], 100)
    with pytest.raises(UserError, match=r"nothing is left .* rows of source n.py asks"):
        split([endless(tmp_path, "n", distinct=5)], [], 10)
    mixed = [rows_of(tmp_path / f"{w}.jsonl", *w, weight=1) for w in ("ab", "cdef")]
    evaluation = rows_of(tmp_path / "e.jsonl", *"ab")
    with pytest.raises(UserError, match=r"nothing is left .* the 2 rows of source jsonl asks"):
        split(mixed, [evaluation], 10, overlap="drop")


def test_an_endless_source_beside_others_needs_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"n.py: .* hide the other .*give every \[\[data\]\] a wei"):
        split([SUMS, endless(tmp_path, "n")], [], 10)


def test_an_endless_source_has_no_curriculum(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'n.py: sampling = "difficulty" needs rows that come back'):
        split([endless(tmp_path, "n", sampling="difficulty")], [], 10)


def test_an_endless_source_is_not_read_as_a_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2147483647 rows are too many to be read as a whole"):
        _ = split([endless(tmp_path, "n")], [], 10).train


def test_an_example_may_not_be_held_out_and_does_not_train(tmp_path: Path) -> None:
    shots = [{"prompt": "b", "answer": "B"}]
    source = rows_of(tmp_path / "t.jsonl", *"abc", few_shot=shots)
    evaluation = rows_of(tmp_path / "e.jsonl", "x")
    opened = open_stream(source, n=4, held_out=(evaluation,))
    assert {text[-1] for text in flat(steps(opened, 1))} == {"a", "c"}
    clash = rows_of(tmp_path / "f.jsonl", "b")
    message = r"data jsonl: few_shot\[0\] asks the same as the held-out problem eval:jsonl/0"
    with pytest.raises(UserError, match=message):
        split([source], [clash], 10)
    with pytest.raises(UserError, match=r"data eval:jsonl: few_shot\[0\] asks the same"):
        split([SUMS], [source], 10)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return []", "data own.py:load: the source has no rows"),
        ("return 3", r"data own.py:load: load\(\) returned int"),
        ("return ['a']", "own.py:load/0: the source returned str"),
    ],
)
def test_a_source_of_the_users_own_is_checked_against_the_contract(
    tmp_path: Path, body: str, message: str
) -> None:
    (tmp_path / "own.py").write_text(f"def load(config):\n    {body}\n")
    source = Selected("data", absolute("./own.py:load", tmp_path), SourceSettings())
    with pytest.raises(UserError, match=message):
        split([source], [], 1)


def test_the_hash_is_of_what_a_prompt_asks() -> None:
    user = ({"role": "user", "content": "a"},)
    system = ({"role": "system", "content": "s"}, *user)
    same = (Problem("a"), Problem(user, answer="1"), Problem(system))
    assert len({*map(hash_question, same)}) == 1
    turns = (*user, {"role": "assistant", "content": "b"})
    assert len({hash_question(Problem(p)) for p in ("a", "a ", "A", turns)}) == 4
