r"""The final answer of a completion, in the LaTeX that math-verify reads.

math-verify joins boxes that stand close together into a set, so a corrected answer is wrong. Here
the last box is the answer; where it is empty or never closed there is none. Several boxes are one
answer only as a list (`several_boxes`), which is compared with references that are lists too.

Each rule of `to_latex` stands for reports in tests/corpus/math, where pairs of answers are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_BETWEEN = re.compile(
    r"(?:\s|[$,;]|\\[()\[\],;:! ]|\\q?quad\b|\band\b|\bor\b|\\text\{\s*(?:and|or)\s*\})*"
)
_LIST = re.compile(r"[,;]|\band\b|\bor\b")
_CORRECTION = re.compile(
    r"(?i)\b(?:no|not|nope|wait|but|actually|instead|rather|correct\w*|mistake\w*|wrong|sorry|hmm+|so)\b"
)
_MARKS = re.compile(r"(?<!\\)(?:\$|\\[()\[\]])")
_FORMULA = re.compile(r"(?<!\\)\$[^$]*\$")
_FINAL = re.compile(r"(?i)final answer[^.\n]{0,100}?(?:\bis\b|:)")
_PLAIN: dict[int, int | str] = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},  # letters of full width
    ord("。"): ".",
    ord("、"): ",",
    ord("\u3000"): " ",
    ord("\u00a0"): " ",
    ord("−"): "-",
    ord("–"): "-",
}
_TAGS = re.compile(r"\*\*|</?answer>")


def _fraction(digits: str) -> str:
    return rf"\frac{{{digits[0]}}}{{{digits[1]}}}"


_SIGNS: dict[int, int | str] = {
    **dict(zip(map(ord, "⁰¹²³⁴⁵⁶⁷⁸⁹"), (f"^{{{digit}}}" for digit in range(10)), strict=True)),
    **dict(zip(map(ord, "½⅓⅔¼¾"), map(_fraction, ("12", "13", "23", "14", "34")), strict=True)),
    ord("×"): r"\times ",
    ord("·"): r"\cdot ",
    ord("÷"): "/",
    ord("∞"): r"\infty ",
    ord("°"): r"^{\circ}",
    ord("√"): r"\sqrt ",
    ord("≤"): r"\le ",
    ord("≥"): r"\ge ",
    ord("≠"): r"\ne ",
    ord("±"): r"\pm ",
    ord("∪"): r"\cup ",
    ord("∩"): r"\cap ",
    ord("∅"): r"\emptyset ",
}


def _without_unit(found: re.Match[str]) -> str:
    return found[1] if found[2] in _UNITS else found[0]


def _repeating(found: re.Match[str]) -> str:
    whole, start, period = found.groups()
    above = int(whole + start + period) - int(whole + start)
    return rf"\frac{{{above}}}{{{10 ** len(start) * (10 ** len(period) - 1)}}}"


_RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    # `\$18`, `€18`, `18 €`
    (re.compile(r"\\\$|[€£¥₹]"), ""),
    # `32,\!348`, `10\,000`, `9{,}500`
    (re.compile(r"(?<=\d)(?:,?\s*\\[!,;: ]|\{,\}|~)+\s*(?=\d{3}(?!\d))"), ""),
    # `\text{70,000}`
    (re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{\s*(-?[\d.,]*\d)\s*\}"), r"\1"),
    # `sqrt(2)` and `\sqrt(2)`, of which math-verify reads `4\sqrt(2)` as 4
    (re.compile(r"\\?sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    # `1 234 567`
    (re.compile(r"^\s*-?\d{1,3}(?: \d{3})+\s*$"), lambda found: found[0].replace(" ", "")),
    # `18 dollars`; one letter may be a variable
    (re.compile(r"^(\s*-?[\d.,]*\d)\s+([A-Za-z]{2,})\s*$"), _without_unit),
    # `11 5/6`
    (re.compile(r"^\s*(-?\d+)\s+(\d+)/(\d+)\s*$"), r"\1\\frac{\2}{\3}"),
    # `1.5e-3`
    (re.compile(r"^\s*(-?\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})\s*$"), r"\1 \\cdot 10^{\2}"),
    # `0.1\\overline{6}`
    (re.compile(r"(\d{1,9})\.(\d{0,9})\\overline\{(\d{1,9})\}"), _repeating),
    # `\\cos 60^\\circ`, whose degrees math-verify drops
    (
        re.compile(
            r"(\\(?:sin|cos|tan|cot|sec|csc))\s*\(?(\d{1,9})\s*\^\s*(?:\{\\circ\}|\\circ)\)?"
        ),
        r"\1(\\frac{\2\\pi}{180})",
    ),
    # `\\text{The answer is } 4`
    (re.compile(r"^\s*\\(?:text|textbf|mbox)\{[A-Za-z ,:']+\}\s*[:=]?\s*(?=-?\d)"), ""),
    # the full stop of the sentence
    (re.compile(r"(?<!\.)\.\s*$"), ""),
)
_IN_BASE = re.compile(r"\s*(\d[0-9A-Za-z]*)\s*_\s*\{?\s*(\d{1,2})\s*\}?\s*")
_WORDS = re.compile(r"[A-Za-z]{2,}(?: [A-Za-z]{2,})*")
_CHOICE = re.compile(r"\s*\(?([A-Z])(?:\s*|[).:].*)", re.DOTALL)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_DOTS = re.compile(r"\\(?:l|c|d)?dots\b|\.\.\.|…")
_SPACES = re.compile(r"\\(?:left|right|displaystyle)\b|\\[!,;: ]|\s|~")
_BRACKETS = re.compile(r"\\[{}]|[()\[\]]")
_OPEN = ("\\{", "(", "[")
_UNIT = re.compile(r"\d(?:\\[,; ]|~|\s)*([A-Za-z]+)(?:\s*\^\s*\{?\d\}?)?\s*\.?\s*")
_UNITS = {
    spelling: group[0]
    for group in (
        ("mm", "millimeter", "millimeters"),
        ("cm", "centimeter", "centimeters"),
        ("m", "meter", "meters"),
        ("km", "kilometer", "kilometers"),
        ("inch", "inches", "in"),
        ("foot", "feet", "ft"),
        ("mile", "miles", "mi"),
        ("g", "gram", "grams"),
        ("kg", "kilogram", "kilograms"),
        ("second", "seconds", "s", "sec"),
        ("minute", "minutes", "min"),
        ("hour", "hours", "h", "hr"),
        ("day", "days"),
        ("week", "weeks"),
        ("year", "years"),
        ("cent", "cents"),
        ("dollar", "dollars"),
    )
    for spelling in group
}
"""Units by their spellings; math-verify drops them, so 5 cm would be 5 m."""


class Box(NamedTuple):
    """A box: where it begins and ends, and what it holds; None where it never ends."""

    start: int
    end: int
    content: str | None


def plain(text: str) -> str:
    """The text with its digits and punctuation in ASCII, without bold and answer marks."""
    return _TAGS.sub(" ", text.translate(_PLAIN))


def to_latex(answer: str) -> str:
    """An answer that stands alone, as LaTeX that math-verify reads."""
    answer = answer.translate(_SIGNS)
    for pattern, instead in _RULES:
        answer = pattern.sub(instead, answer)
    return answer


def without_marks(text: str) -> str:
    """The text without the marks of formulas, if only conjunctions are outside them."""
    several = text.count("$") > 1
    is_formula = not several or _BETWEEN.fullmatch(_FORMULA.sub("", text)) is not None
    return _MARKS.sub(" ", text) if is_formula else text


def final_answer(text: str) -> str | None:
    """What follows the last `final answer is` or `final answer:`, with these words."""
    found = [match.start() for match in _FINAL.finditer(text)][-1:]
    return text[found[0] :] if found else None


def find_boxes(text: str) -> list[Box]:
    r"""Every `\boxed{…}` and `\fbox{…}` that is not inside another."""
    return list(_boxes(text))


def _boxes(text: str) -> Iterator[Box]:
    at = 0
    while found := _BOX.search(text, at):
        at = _closing(text, found.end())
        if at < 0:
            yield Box(found.start(), len(text), None)
            return
        yield Box(found.start(), at, text[found.end() : at - 1])


def _closing(text: str, at: int) -> int:
    """The place after the brace that closes the one before `at`; −1 where there is none."""
    depth = 1
    for sign in _BRACES.finditer(text, at):
        depth += {"{": 1, "}": -1}.get(sign[0], 0)
        if depth == 0:
            return sign.end()
    return -1


def several_boxes(text: str, boxes: list[Box]) -> list[str]:
    """What the last boxes hold that are one list: conjunctions between them, and no correction."""
    run = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box.end : run[-1].start]
        listed = len(between) < 70 and _LIST.search(between) and not _CORRECTION.search(between)
        if not (listed or _BETWEEN.fullmatch(between)):
            break
        run.append(box)
    return [box.content or "" for box in reversed(run)]


def compare(gold: str, answer: str, strict: bool) -> bool | None:
    """Whether two answers are equal as texts; None where their values must be compared.

    strict  a set is not a tuple
    """
    for read in (_words, _choice, _in_base, _dotted):
        pair = read(gold), read(answer)
        if None not in pair:
            return pair[0] == pair[1]
    differing = (_unit, _brackets) if strict else (_unit,)
    for read in differing:
        pair = read(gold), read(answer)
        if None not in pair and pair[0] != pair[1]:
            return False
    return None


def _words(answer: str) -> str | None:
    """Words, which math-verify reads as products of their letters."""
    text = _TEXT.sub(r"\1", answer).strip(" .")
    return text.lower() if len(text) > 3 and _WORDS.fullmatch(text) else None


def _choice(answer: str) -> str | None:
    """The letter of `B`, `(B)`, `B. 5`."""
    found = _CHOICE.fullmatch(_TEXT.sub(r"\1", answer))
    return found[1] if found else None


def _in_base(answer: str) -> str | None:
    """Digits and base of `204_5`, whose base math-verify drops."""
    found = _IN_BASE.fullmatch(answer)
    return f"{found[1].lower().lstrip('0')}_{found[2]}" if found else None


def _dotted(answer: str) -> str | None:
    """A sequence with dots, of which math-verify reads one part."""
    return _DOTS.sub("…", _SPACES.sub("", answer)) if _DOTS.search(answer) else None


def _unit(answer: str) -> str | None:
    """The unit at the end, where it is a known one."""
    found = _UNIT.search(_TEXT.sub(r" \1", answer))
    return _UNITS.get(found[1]) if found and not found.string[found.end() :] else None


def _brackets(answer: str) -> str | None:
    """Whether one pair of braces, as of a set, or of other brackets is around the whole answer."""
    text, depth = _SPACES.sub("", answer), 0
    for sign in _BRACKETS.finditer(text):
        depth += 1 if sign[0] in _OPEN else -1
        if depth == 0 and sign.end() < len(text):
            return None
    if not text.startswith(_OPEN) or depth:
        return None
    return "braces" if text.startswith("\\{") else "other"
