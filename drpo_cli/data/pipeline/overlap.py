"""Counts the held-out problems whose words come again in a training prompt.

`split` keeps prompts that are equal out of training; this finds those that are nearly equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import islice

from drpo_cli.data.pipeline.rows import is_endless
from drpo_cli.data.pipeline.split import Split
from drpo_cli.types import Problem

WORDS = 13
"""Words in a row that count as the same text, as in arXiv 2005.14165, appendix C."""
FORM = 6
"""Words in a row that are a form, such as an instruction, where many training prompts have them."""
COMMON = 10
"""Training prompts that may share such words before they count as a form."""
MOST_ROWS = 100_000
"""Training rows per source that are read."""
Words = tuple[str, ...]
_EDGES = ".,;:!?\"'`*()[]{}"


@dataclass(frozen=True)
class Overlap:
    """Held-out problems whose words come again in training prompts.

    problems  all held-out problems
    shared    those with `WORDS` words in a row, or all words, of a training prompt
    same      those with all words of a training prompt, and no others
    pairs     ids of such a held-out problem and of the first training row, `same` ones first
    rows      training rows that they were compared with
    """

    problems: int
    shared: int
    same: int
    pairs: tuple[tuple[str, str], ...]
    rows: int


def find_overlap(data: Split) -> Overlap:
    """Compares the prompts as the sources gave them, without case and punctuation around words.

    Words in a row do not count where at least half of them belong to a form. Reads up to
    `MOST_ROWS` training rows of each source, and none of an endless one. System messages do not
    count. Raises UserError for a row that cannot be used.
    """
    held_out = {row.id: _split_words(row.problem) for row in data.held_out_rows}
    whole = dict.fromkeys(held_out.values(), "")
    parts = {part: "" for words in held_out.values() for part in _take_parts(words, WORDS)}
    sharing: dict[Words, set[Words]] = {
        form: set() for words in held_out.values() for form in _take_parts(words, FORM)
    }
    count = 0
    for id, words in _read_training(data):
        count += 1
        if words in whole:
            whole[words] = whole[words] or id
        for at, form in enumerate(_take_parts(words, FORM)):
            if (prompts := sharing.get(form)) is None:
                continue  # nor does a shared part begin here
            if len(prompts) <= COMMON:
                prompts.add(words)
            if not parts.get(part := words[at : at + WORDS], id):
                parts[part] = id
    forms = {form for form, prompts in sharing.items() if len(prompts) > COMMON}
    same = {id: whole[words] for id, words in held_out.items() if whole[words]}
    near = {id: _find_part(words, parts, forms) for id, words in held_out.items() if id not in same}
    pairs = [*same.items(), *((id, row) for id, row in near.items() if row)]
    return Overlap(len(held_out), len(pairs), len(same), tuple(pairs), count)


def _find_part(words: Words, parts: Mapping[Words, str], forms: Set[Words]) -> str:
    """The training row that shares words outside of forms; empty if none does."""
    formal = [False] * len(words)
    for at, form in enumerate(_take_parts(words, FORM)):
        if form in forms:
            formal[at : at + FORM] = [True] * FORM
    for at, part in enumerate(_take_parts(words, WORDS)):
        if parts[part] and 2 * sum(formal[at : at + WORDS]) < WORDS:
            return parts[part]
    return ""


def _read_training(data: Split) -> Iterator[tuple[str, Words]]:
    for source in data.sources:
        for row in () if is_endless(source) else islice(source, MOST_ROWS):
            if data.trains(row):
                yield row.id, _split_words(row.problem)


def _split_words(problem: Problem) -> Words:
    turns = problem.prompt
    if not isinstance(turns, str):
        turns = " ".join(turn["content"] for turn in turns if turn["role"] != "system")
    return tuple(word.strip(_EDGES) or word for word in turns.casefold().split())


def _take_parts(words: Words, size: int) -> Iterator[Words]:
    """Each `size` words in a row; none of a shorter text, which only counts as a whole."""
    return (words[at : at + size] for at in range(len(words) - size + 1))
