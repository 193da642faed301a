"""Makes train.jsonl and held_out.jsonl: problems whose answer is a whole number from 0 to 999.

`python make_problems.py` writes both into its own folder, the same bytes on every machine.
Where it is fast enough, the answers come from counting or trying: no formula has to be trusted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, count, product
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
SEED = 2026
TRAIN_PER_KIND = 24
HELD_OUT_PER_KIND = 2
BIGGEST = 999  # largest answer, as in the AIME

Made = tuple[str, int]  # text and answer; an answer of -1 means: try again


def power_remainder(rng: Random) -> Made:
    base, exponent = rng.randint(2, 60), rng.randint(20, 2030)
    modulus = rng.choice([7, 11, 13, 17, 64, 81, 100, 101, 125, 1000])
    text = f"Find the remainder when ${base}^{{{exponent}}}$ is divided by ${modulus}$."
    return text, pow(base, exponent, modulus) if math.gcd(base, modulus) == 1 else -1


def remainders(rng: Random) -> Made:
    moduli = rng.choice([(3, 5, 7), (4, 5, 7), (5, 7, 9), (7, 8, 9), (4, 9, 11), (5, 8, 13)])
    wanted = [rng.randrange(modulus) for modulus in moduli]
    clauses = [f"${r}$ when divided by ${m}$" for r, m in zip(wanted, moduli, strict=True)]
    found = next(n for n in count(1) if [n % m for m in moduli] == wanted)
    return (
        "Find the smallest positive integer that leaves a remainder of "
        f"{clauses[0]}, of {clauses[1]} and of {clauses[2]}.",
        found,
    )


def multiples(rng: Random) -> Made:
    first, second, third = rng.sample([2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 3)
    last = rng.randint(150, 1800)
    right = [n for n in range(1, last + 1) if (n % first == 0 or n % second == 0) and n % third]
    return (
        f"How many of the integers from $1$ to ${last}$ are divisible by ${first}$ or by "
        f"${second}$ (or by both), but not by ${third}$?",
        len(right),
    )


def series(rng: Random) -> Made:
    first, difference, terms = rng.randint(1, 60), rng.randint(2, 40), rng.randint(15, 120)
    total = sum(first + difference * i for i in range(terms))
    return (
        f"An arithmetic sequence starts with ${first}$ and has the common difference "
        f"${difference}$. Find the remainder when the sum of its first ${terms}$ terms is divided "
        "by $1000$.",
        total % 1000,
    )


def gcd_and_lcm(rng: Random) -> Made:
    divisor = rng.randint(2, 30)
    left, right = rng.randint(2, 30), rng.randint(2, 30)
    while math.gcd(left, right) > 1:
        right = rng.randint(2, 30)
    one, other = divisor * left, divisor * right
    return (
        f"Two positive integers have the greatest common divisor ${divisor}$ and the least common "
        f"multiple ${math.lcm(one, other)}$. One of them is ${one}$. Find the other.",
        other,
    )


def digit_sums(rng: Random) -> Made:
    digits, total, divisor = rng.choice([3, 4]), rng.randint(6, 24), rng.randint(2, 9)
    numbers = range(10 ** (digits - 1), 10**digits)
    right = [n for n in numbers if n % divisor == 0 and sum(map(int, str(n))) == total]
    return (
        f"How many ${digits}$-digit positive integers are divisible by ${divisor}$ and have digits "
        f"that add up to ${total}$?",
        len(right),
    )


def linear_system(rng: Random) -> Made:
    x, y, z = (rng.randint(1, 90) for _ in range(3))
    a, b, c = (rng.randint(2, 9) for _ in range(3))  # a > 1: the system has one solution
    return (
        f"Real numbers $x$, $y$ and $z$ satisfy $x + y + z = {x + y + z}$, "
        f"$x + {a}y = {x + a * y}$ and ${b}y + {c}z = {b * y + c * z}$. Find $x + 2y + 3z$.",
        x + 2 * y + 3 * z,
    )


def roots(rng: Random) -> Made:
    total, product_ = rng.randint(3, 30), rng.randint(-90, 90)
    sign = "+" if product_ >= 0 else "-"
    return (
        f"Let $r$ and $s$ be the complex roots of $x^2 - {total}x {sign} {abs(product_)} = 0$. "
        "Find $r^2 + s^2$.",
        total**2 - 2 * product_ if product_ else -1,
    )


def committees(rng: Random) -> Made:
    men, women, seats = rng.randint(3, 7), rng.randint(3, 6), rng.randint(3, 6)
    least = rng.randint(2, 3)
    people = range(men + women)
    right = [c for c in combinations(people, seats) if sum(one < women for one in c) >= least]
    return (
        f"A club has ${men}$ men and ${women}$ women. In how many ways can a committee of "
        f"${seats}$ members with at least ${least}$ women be chosen?",
        len(right),
    )


def dice(rng: Random) -> Made:
    faces, throws, least = rng.choice([4, 6, 8, 10, 12]), rng.randint(2, 3), rng.randint(4, 24)
    rolls = list(product(range(1, faces + 1), repeat=throws))
    chance = Fraction(sum(sum(roll) >= least for roll in rolls), len(rolls))
    return (
        f"A fair die with faces $1$ to ${faces}$ is thrown ${throws}$ times. The probability that "
        f"the sum is at least ${least}$ is $\\frac{{m}}{{n}}$ in lowest terms. Find $m + n$.",
        chance.numerator + chance.denominator if 0 < chance < 1 else -1,
    )


def pairs(rng: Random) -> Made:
    a, b, total = rng.randint(2, 12), rng.randint(2, 12), rng.randint(60, 2000)
    right = [x for x in range(1, total) if total - a * x > 0 and (total - a * x) % b == 0]
    return (
        f"How many ordered pairs $(x, y)$ of positive integers satisfy ${a}x + {b}y = {total}$?",
        len(right),
    )


def missing_digits(rng: Random) -> Made:
    last, digit, other = rng.randint(300, 1999), *rng.sample("123456789", 2)
    right = [n for n in range(1, last + 1) if digit in str(n) and other not in str(n)]
    return (
        f"How many of the integers from $1$ to ${last}$ have the digit ${digit}$, but not the "
        f"digit ${other}$, in their decimal form?",
        len(right),
    )


def recurrence(rng: Random) -> Made:
    start, factor, shift = rng.randint(1, 9), rng.randint(2, 6), rng.randint(1, 9)
    index, modulus = rng.randint(8, 60), rng.choice([10, 17, 50, 97, 100, 1000])
    term = start
    for _ in range(index - 1):
        term = factor * term + shift
    return (
        f"A sequence is given by $a_1 = {start}$ and $a_{{n+1}} = {factor}a_n + {shift}$. Find the "
        f"remainder when $a_{{{index}}}$ is divided by ${modulus}$.",
        term % modulus,
    )


def divisors(rng: Random) -> Made:
    number, factor = rng.randint(200, 9000), rng.choice([2, 3, 5, 6])
    found = [d for d in range(1, number + 1) if number % d == 0 and d % factor == 0]
    return f"How many positive divisors of ${number}$ are multiples of ${factor}$?", len(found)


def factorial_zeros(rng: Random) -> Made:
    number, base = rng.randint(30, 220), rng.choice([6, 10, 12, 15])
    product_ = math.factorial(number)
    power = next(k for k in count() if product_ % base ** (k + 1))
    return f"Find the largest integer $k$ for which ${base}^k$ divides ${number}!$.", power


KINDS: tuple[Callable[[Random], Made], ...] = (
    power_remainder,
    remainders,
    multiples,
    series,
    gcd_and_lcm,
    digit_sums,
    linear_system,
    roots,
    committees,
    dice,
    pairs,
    missing_digits,
    recurrence,
    divisors,
    factorial_zeros,
)
TRIVIAL_AT_0 = {kind for kind in KINDS if kind not in (power_remainder, series, recurrence)}


def make(kind: Callable[[Random], Made], wanted: int) -> list[dict[str, object]]:
    """Makes `wanted` different problems of a kind, seeded by the name of its function.

    Problems with an answer out of range are dropped.
    """
    rng = Random(f"{SEED} {kind.__name__}")
    least = 1 if kind in TRIVIAL_AT_0 else 0
    found: dict[str, int] = {}
    while len(found) < wanted:
        text, answer = kind(rng)
        if least <= answer <= BIGGEST:
            found[text] = answer
    return [{"prompt": t, "answer": str(a), "kind": kind.__name__} for t, a in found.items()]


def main(folder: Path) -> None:
    """Writes both files; the first problems of each kind are held out."""
    made = [make(kind, HELD_OUT_PER_KIND + TRAIN_PER_KIND) for kind in KINDS]
    files = {
        "held_out.jsonl": [row for rows in made for row in rows[:HELD_OUT_PER_KIND]],
        "train.jsonl": [row for rows in made for row in rows[HELD_OUT_PER_KIND:]],
    }
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(HERE)
