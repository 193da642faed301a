"""Held-out problems whose words come again in training prompts."""

from pathlib import Path

from drpo_cli.data.pipeline.overlap import COMMON, Overlap, find_overlap
from drpo_cli.data.pipeline.split import split
from drpo_cli.tools.evaluate import describe_overlap
from support.data import endless, rows_of

LONG = " ".join(f"word{i}" for i in range(20))


def overlap(folder: Path, train: list[object], held_out: list[object]) -> Overlap:
    rows = rows_of(folder / "train.jsonl", *train)
    return find_overlap(split([rows], [rows_of(folder / "eval.jsonl", *held_out)], 50))


def pairs(found: Overlap) -> set[tuple[str, str]]:
    return {
        (held_out.rpartition("/")[2], train.rpartition("/")[2]) for held_out, train in found.pairs
    }


def test_the_same_words_with_other_case_space_and_punctuation(tmp_path: Path) -> None:
    found = overlap(tmp_path, ["What is 2+3?", "What is 2-3?"], ["what  is 2+3", "what is 23"])
    assert (found.problems, found.shared, found.same, found.rows) == (2, 1, 1, 2)
    assert pairs(found) == {("0", "0")}


def test_thirteen_words_in_a_row_count_and_twelve_do_not(tmp_path: Path) -> None:
    words = LONG.split()
    thirteen, twelve = " ".join(words[2:15]), " ".join(words[2:14])
    train: list[object] = ["nothing", f"before {thirteen} after", f"again {thirteen}"]
    found = overlap(tmp_path, train, [LONG, "other"])
    assert (found.shared, found.same, pairs(found)) == (1, 0, {("0", "1")})
    assert overlap(tmp_path, [f"before {twelve} after"], [LONG]).shared == 0


def test_short_problems_count_only_as_a_whole(tmp_path: Path) -> None:
    assert overlap(tmp_path, ["add 2 and 3 now"], ["add 2 and 3"]).shared == 0


def test_words_that_many_prompts_share_are_their_form(tmp_path: Path) -> None:
    train: list[object] = [f"{LONG} {i} and {i}" for i in range(COMMON + 1)]
    assert overlap(tmp_path, train, [f"{LONG} x"]).shared == 0
    assert overlap(tmp_path, train[1:], [f"{LONG} x"]).shared == 1
    assert overlap(tmp_path, train, [f"{LONG} 3 and 3."]).same == 1
    assert overlap(tmp_path, [f"{LONG} 1"] * 50, [f"{LONG} x"]).shared == 1


def test_a_word_after_the_form_is_not_enough_and_a_sentence_is(tmp_path: Path) -> None:
    train: list[object] = [f"{LONG} Tom has {i} apples" for i in range(COMMON + 1)]
    assert overlap(tmp_path, [*train, f"{LONG} Ann is here"], [f"{LONG} Ann sees"]).shared == 0
    sentence = "Ann sees seven trees beside the road"
    assert overlap(tmp_path, [*train, f"{LONG} {sentence}"], [f"{LONG} {sentence} x"]).shared == 1


def test_chats_are_compared_without_their_system_messages(tmp_path: Path) -> None:
    system = {"role": "system", "content": LONG}
    train = [system, {"role": "user", "content": "What is 2?"}]
    held_out = [system, {"role": "user", "content": "what is 2"}]
    other = [system, {"role": "user", "content": "what is 3"}]
    found = overlap(tmp_path, [train], [held_out, other])
    assert (found.shared, found.same) == (1, 1)


def test_an_endless_source_is_not_read(tmp_path: Path) -> None:
    found = find_overlap(split([endless(tmp_path, "m")], [], 5))
    assert (found.problems, found.shared, found.rows) == (5, 0, 0)


def test_the_sentence_names_a_pair(tmp_path: Path) -> None:
    text = describe_overlap(overlap(tmp_path, [f"{LONG} 1", "one"], [LONG, "One."]))
    assert text.startswith("2 of 2 held-out problems share 13 words")
    assert "eval:jsonl/1 with jsonl/1" in text
    assert "1 are the same" in text
