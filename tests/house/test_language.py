"""Plain English: idioms that a reader stumbles over stay out of docstrings, comments, messages."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("drpo_cli", "examples", "templates", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("templates/*/*.md")])

INSTEAD = {
    r"\b(is|are|was) to (be|have|hold|learn|share|take|say|go)\b": "must, should, will",
    r"\b(is|are) no (?!longer\b|more\b|less\b)[a-z]+": "has no, is not a",
    r"\bwhat (it|they|he) (is|are|was|were) given\b": "its input, the arguments",
    r"\bas far as\b": "as much as, up to",
    r"\b(times?|floats?|bytes|seconds|tokens|lines?|files?|calls?|one|number|process(es)?)"
    r" an? (?:response |input |decoder )?"
    r"(token|rank|step|sample|prompt|row|layer|update|call|device|folder)\b": "per",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bleaves? word\b|\bleft word\b": "records, reports",
    r"\bis told\b|\bare told\b|\bto be told\b": "gets, is shown",
    r"\bgo(es)? on with\b": "continue with",
    r"\blooked over\b|\btold apart\b": "checked, distinguished",
    r"\bbeyond help\b|\bwhat there is to\b|\bknows nothing of\b": "say the thing itself",
    r"\bof like length\b|\blike-long\b": "of similar length",
    r"\bthe same go\b|\ball that is\b|\bwhatever is wrong\b": "every, everything that",
}
"""Each idiom, as a pattern, with what to write instead."""

ALLOWED = {
    r"there (is|are) no\b": "plain English: `there is no such file`",
}
"""Matches that are fine, with the reason."""


def idioms(text: str) -> list[str]:
    """The idioms in a text, each with what to write instead."""
    flat = " ".join(text.split())
    for fine in ALLOWED:
        flat = re.sub(fine, "", flat, flags=re.IGNORECASE)
    return [
        f"{match[0]!r}: write {better}"
        for pattern, better in INSTEAD.items()
        for match in re.finditer(pattern, flat, re.IGNORECASE)
    ]


def prose(source: str) -> list[str]:
    """Docstrings, other strings, and comments (neighbouring lines together) of a source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
            found.append("".join(map(str, parts)))
    comments = [
        token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    return [*found, " ".join(comments)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sources_are_in_plain_english(path: Path) -> None:
    assert [idiom for text in prose(path.read_text()) for idiom in idioms(text)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_in_plain_english(path: Path) -> None:
    assert idioms(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "Every weight as the engine is to have it.",
        "Its options are no table.",
        "A float a response token.",
        "Has a failure said that no rank left word of.",
        "It does what it is given, as far as it can.",
    ],
)
def test_an_idiom_is_found(text: str) -> None:
    assert idioms(text)
