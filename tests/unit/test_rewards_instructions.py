"""The verifiable instructions of IFEval: what follows each of them, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drpo_cli.errors import UserError
from drpo_cli.rewards import instructions
from drpo_cli.rewards._instructions import CHECKS, _sentence_tokenizer, variants

LEAST, LESS = {"relation": "at least"}, {"relation": "less than"}
ENGLISH = "the weather in this part of the country is usually rather mild and often wet"
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["war", "Peace"]}, ["peace, then a warm sea"], ["war"]),
    ("keywords:frequency", {"keyword": "War", "frequency": 2, **LEAST}, ["war WAR"], ["war"]),
    ("keywords:frequency", {"keyword": "war ", "frequency": 1, **LESS}, ["peace"], ["a war"]),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, ["rocks"], ["Rock, and roll"]),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "at least"},
        ["#a #b"],
        ["#a"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "T", "let_frequency": 2, "let_relation": "less than"},
        ["to"],
        ["to The"],
    ),
    ("language:response_language", {"language": "de"}, ["Das ist ein Satz.", "1 2"], [ENGLISH]),
    ("length_constraints:number_words", {"num_words": 3, **LEAST}, ["a b's"], ["a b-", ""]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a *** b", "***a***\nb\n***"],
        ["a", "a *** *** b", "a *** b *** c"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Yes"},
        ["a\n\nyes, b", 'a\n\n\'"Yes!" b', "a\n\nyes\n\n "],
        ["yes\n\na", "a\n\nyesterday", "a\n\nyes\n\nb", "a"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] and [address]"],
        ["[name\nand address]", "[name]"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["p. s. more"], ["PS more"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S: more"], ["P.S."]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  * b", "* a\n** c **\n- b"],
        ["* a", "* a\n- b\n- c"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["I think: My answer is maybe."],
        ["My answer is perhaps.", "my answer is yes."],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a**\n*b*"],
        ["*a*", "* * and *a*", "*a\nb* *c*"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1 a\nSection 2 b", "Section1Section2Section3"],
        ["Section 1", "SECTION 1 SECTION 2", "Section A Section B"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1]}', '```json\n{"a": 1}\n```', " 1 "],
        ['{"a": 1,}', 'Here: {"a": 1}', "[" * 100_000],
    ),
    ("detectable_format:title", {}, ["<<a>> b"], ["<a>", "<< >>", "<<a\n>>"]),
    (
        "combination:two_responses",
        {},
        ["a ****** b", "******a******b"],
        ["a", "a ****** a", "a ****** b ****** c", "a ****** ****** b"],
    ),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say A. "}, [" say a. A"], ["A. Say A."]),
    ("startend:end_checker", {"end_phrase": "Bye?"}, ['so: "BYE?" '], ["bye? x"]),
    ("startend:quotation", {}, [' "a" '], ['"', '"a" b', "“a”"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["GO home NOW.", "I DON'T"],
        ["GO home", "Go Home Now", "WELL-KNOWN things"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, "DAS IST EIN SATZ."]),
    ("change_case:english_lowercase", {}, [ENGLISH], ["The weather", "das ist ein satz.", "12"]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
]


@pytest.mark.parametrize(("name", "given", "right", "wrong"), CASES)
def test_what_follows_an_instruction(
    name: str, given: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    assert [CHECKS[name](text, **given) for text in right] == [True] * len(right)
    assert [CHECKS[name](text, **given) for text in wrong] == [False] * len(wrong)


@pytest.fixture
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where nltk looks for its data, alone."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    _sentence_tokenizer.cache_clear()
    return tmp_path


def test_sentences_are_those_of_nltks_model(no_data: Path) -> None:
    from nltk.tokenize.punkt import PunktParameters, save_punkt_params

    known = PunktParameters()
    known.abbrev_types.add("dr")
    folder = no_data / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    save_punkt_params(known, dir=str(folder))
    check = CHECKS["length_constraints:number_sentences"]
    assert check("Dr. No sings. He dances! Why?", num_sentences=3, relation="at least")
    assert check("Dr. No sings. He dances! Why?", num_sentences=4, relation="less than")


def test_without_the_model_it_says_what_to_do(
    no_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    asked: list[str] = []
    monkeypatch.setattr(nltk, "download", lambda name, quiet: asked.append(name))
    with pytest.raises(UserError, match=r"python -m nltk\.downloader punkt_tab"):
        CHECKS["length_constraints:number_sentences"]("a", num_sentences=1, relation="at least")
    assert set(asked) == {"punkt_tab"}


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs nltk.*pip install 'drpo\[ifeval\]'"):
        instructions.reward(instructions.Config())


def test_every_instruction_has_a_case() -> None:
    assert {name for name, *_ in CASES} | {"length_constraints:number_sentences"} == CHECKS.keys()
    assert len(CHECKS) == 25


def test_loose_looks_at_eight_texts() -> None:
    assert list(variants("a\n*b*\nc")) == [
        *("a\n*b*\nc", "a\nb\nc"),
        *("*b*\nc", "b\nc"),
        *("a\n*b*", "a\nb"),
        *("*b*", "b"),
    ]


def scored(completion: str, names: Any, arguments: Any, **options: Any) -> float:
    row = {"instruction_id_list": names, "kwargs": arguments}
    return instructions.reward(instructions.Config(**options))(completion, row)


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("<think>a, b</think>\n\nc", 1),
        ("<think>a b", 0),
        ("a, b</think> c", 1),
        ("<think>a</think>b, c", 0),
        ("", 0),
        (" \n", 0),
    ],
)
def test_reasoning_does_not_count(completion: str, score: float) -> None:
    assert scored(completion, ["punctuation:no_comma"], [{}]) == score


@pytest.mark.parametrize(
    ("names", "arguments", "said"),
    [
        (None, [{}], "no list 'instruction_id_list'"),
        (["punctuation:no_comma"], None, "no list 'kwargs'"),
        (["punctuation:no_comma"], [{}, {}], "1 instructions, and 2 times arguments"),
        (["punctuation:no_dot"], [{}], "there is no instruction 'punctuation:no_dot'"),
        (["startend:end_checker"], [{}], "missing a required argument: 'end_phrase'"),
        (["startend:quotation"], [{"mark": "'"}], "unexpected keyword argument 'mark'"),
        (
            ["length_constraints:number_words"],
            [{"num_words": 1, "relation": "over"}],
            "compares by 'over'",
        ),
    ],
)
def test_a_wrong_row_is_an_error(names: Any, arguments: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        scored("a", names, arguments)
