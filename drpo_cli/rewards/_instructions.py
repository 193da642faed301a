"""The 25 verifiable instructions of IFEval (arXiv 2311.07911), each as a function of the response.

Named and with the arguments of its data set, misspelt ones too. What counts as followed is what the
authors' own checks accept, so that scores compare: where these are lax, so are these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from drpo_cli.errors import UserError

Check = Callable[..., bool]
SENTENCES = "punkt_tab"
"""nltk's data about where sentences end."""


def _relates(count: int, relation: str, bound: int) -> bool:
    if relation not in ("at least", "less than"):
        raise UserError(f"an instruction compares by {relation!r}, not 'at least' or 'less than'")
    return count >= bound if relation == "at least" else count < bound


def _finds(pattern: str, text: str) -> list[str]:
    return re.findall(pattern, text, flags=re.IGNORECASE)


# --- words ---


def _existence(text: str, keywords: list[str]) -> bool:
    return all(_finds(keyword, text) for keyword in keywords)


def _frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _relates(len(_finds(keyword.strip(), text)), relation, frequency)


def _forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    return not any(_finds(rf"\b{word}\b", text) for word in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _relates(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


# --- language and case ---


def _response_language(text: str, language: str) -> bool:
    return _language(text) in (language, None)


def _english_capital(text: str) -> bool:
    return text.isupper() and _language(text) in ("en", None)


def _english_lowercase(text: str) -> bool:
    return text.islower() and _language(text) in ("en", None)


def _capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    from nltk.tokenize import NLTKWordTokenizer

    count = sum(word.isupper() for word in NLTKWordTokenizer().tokenize(text))
    return _relates(count, capital_relation, capital_frequency)


def _language(text: str) -> str | None:
    """The code of the most likely language; None where nothing speaks for any."""
    from langdetect import DetectorFactory, LangDetectException, detect

    DetectorFactory.seed = 0  # it samples
    try:
        found: str = detect(text)
    except LangDetectException:
        return None
    return found


# --- lengths ---


def _number_words(text: str, num_words: int, relation: str) -> bool:
    return _relates(len(re.findall(r"\w+", text)), relation, num_words)


def _number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _relates(len(_sentence_tokenizer().tokenize(text)), relation, num_sentences)


@lru_cache
def _sentence_tokenizer() -> Any:
    """nltk's model of English sentences, downloaded if this machine has none."""
    import nltk

    for _ in range(2):
        try:
            return nltk.tokenize.PunktTokenizer("english")
        except LookupError:
            nltk.download(SENTENCES, quiet=True)
    raise UserError(
        f"an instruction counts sentences, and nltk's data {SENTENCES!r} is neither here nor can "
        "it be downloaded",
        f"run `python -m nltk.downloader {SENTENCES}` where there is a network, and copy nltk_data",
    )


def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    first, *others = re.split(r"\s?\*\*\*\s?", text)
    *between, last = others or [""]
    if not all(part.strip() for part in between):
        return False
    ends = (first, last) if others else (first,)
    return len(between) + sum(bool(part.strip()) for part in ends) == num_paragraphs


def _nth_paragraph_first_word(
    text: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if nth_paragraph > count or not (words := parts[nth_paragraph - 1].split()):
        return False
    word = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0]
    return count == num_paragraphs and word.lower() == first_word.lower()


# --- content and format ---


def _number_placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = postscript_marker.strip()
    return bool(re.search(known.get(marker, marker.lower()), text.lower()))


def _number_bullet_lists(text: str, num_bullets: int) -> bool:
    kinds = (r"^\s*\*[^*].*$", r"^\s*-.*$")
    return sum(len(re.findall(kind, text, flags=re.MULTILINE)) for kind in kinds) == num_bullets


def _constrained_response(text: str) -> bool:
    return any(f"My answer is {answer}." in text for answer in ("yes", "no", "maybe"))


def _number_highlighted_sections(text: str, num_highlights: int) -> bool:
    single = re.findall(r"\*([^\n*]*)\*", text)
    double = re.findall(r"\*\*([^\n*]*)\*\*", text)
    return sum(bool(part.strip()) for part in single + double) >= num_highlights


def _multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{section_spliter.strip()}\s?\d+", text)) >= num_sections


def _json_format(text: str) -> bool:
    whole = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        whole = whole.removeprefix(fence)
    try:
        json.loads(whole.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    return any(t.lstrip("<").rstrip(">").strip() for t in re.findall(r"<<[^\n]+>>", text))


# --- whole responses ---


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    answers = [part for part in parts if part]
    blank_between = not all(parts[1:-1])
    return not blank_between and len(answers) == 2 and answers[0] != answers[1]


def _repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _no_comma(text: str) -> bool:
    return "," not in text


def _quotation(text: str) -> bool:
    whole = text.strip()
    return len(whole) > 1 and whole[0] == whole[-1] == '"'


CHECKS: dict[str, Check] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullet_lists,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:number_highlighted_sections": _number_highlighted_sections,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:json_format": _json_format,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end_checker,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_word_frequency,
    "change_case:english_capital": _english_capital,
    "change_case:english_lowercase": _english_lowercase,
    "punctuation:no_comma": _no_comma,
}


def variants(response: str) -> Iterator[str]:
    """The texts of which one must follow an instruction by the loose measure.

    The response, and it without its first line, its last, or both, each with and without asterisks.
    """
    lines = response.split("\n")
    shorter = ("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))
    for text in (response, *shorter):
        yield text
        yield text.replace("*", "")
