"""The samples of a run in columns of numbers, to rank them without their texts in memory."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from drpo_cli.runs.metrics import Count, SampleRecord
from drpo_cli.runs.reader import Damage, decode, iterate_lines, open_regular

TROUBLE = {"done": 0.0, "failed": 2.0}
"""How bad an end of an episode is, from 0; a limit, which is any other end, is 1."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class NumberedSample(SampleRecord):
    """A sample, and the number of its line in the file, from 1."""

    line: int


@dataclass(frozen=True)
class SampleColumns:
    """Columns over the N samples of a run, in the file's order; NaN for a missing value.

    offsets_N    byte of samples.jsonl at which the line begins
    texts_N      equal for equal completions, of episodes for equal conversations
    prompts_N    equal for equal prompts
    by_reward    values [N] of each reward by its name
    lines_N      number of the line in the file, from 1
    trouble_N    how an episode ended: 0 done, 1 by a limit, 2 failed; NaN without environment
    turns_N      actions of an episode, NaN without environment
    slowest_N    seconds of the slowest answer of its environment, NaN without one
    damage       what is left out of the file
    """

    path: Path
    offsets_N: Integers
    steps_N: Floats
    totals_N: Floats
    texts_N: Integers
    prompts_N: Integers
    by_reward: Mapping[str, Floats]
    lines_N: Integers
    trouble_N: Floats
    turns_N: Floats
    slowest_N: Floats
    damage: Damage = field(default_factory=Damage)

    def __len__(self) -> int:
        return len(self.offsets_N)

    def records(self, which: Iterable[int]) -> list[NumberedSample]:
        """Reads the whole records of these samples.

        Leaves out those of a file that has changed in the meantime, as by a resumed run.
        """
        found: list[NumberedSample] = []
        with suppress(OSError), open_regular(self.path) as file:
            for i in which:
                file.seek(int(self.offsets_N[i]))
                line = int(self.lines_N[i])
                record = decode(file.readline(), SampleRecord, line, Damage())
                if record is not None:
                    found.append({**record, "line": line})
        return found

    def top(self, scores_N: Floats, count: int, once_N: Integers) -> Integers:
        """Indices of the highest scores, ties newest first; of equal `once_N` only the best one.

        Leaves out samples whose score is not finite.
        """
        known = np.flatnonzero(np.isfinite(scores_N))
        order = known[np.lexsort((known, scores_N[known]))[::-1]]
        _, first = np.unique(once_N[order], return_index=True)
        best: Integers = order[np.sort(first)[:count]]
        return best


class _Turn(msgspec.Struct, gc=False):
    answer_s: float | None = None


class _Line(msgspec.Struct, gc=False):
    """The fields read of a line; texts stay bytes, which takes a third of the time."""

    step: Count
    prompt: msgspec.Raw
    completion: msgspec.Raw
    reward: float | None = None
    rewards: dict[str, float | None] | None = None
    messages: msgspec.Raw = msgspec.Raw()
    end: str | None = None
    turns: list[_Turn] | None = None


@dataclass
class _Columns:
    offsets: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    texts: array[int] = field(default_factory=lambda: array("q"))
    prompts: array[int] = field(default_factory=lambda: array("q"))
    steps: array[float] = field(default_factory=lambda: array("d"))
    totals: array[float] = field(default_factory=lambda: array("d"))
    trouble: array[float] = field(default_factory=lambda: array("d"))
    turns: array[float] = field(default_factory=lambda: array("d"))
    slowest: array[float] = field(default_factory=lambda: array("d"))
    rewards: dict[str, array[float]] = field(default_factory=dict)

    def add(self, at: int, number: int, line: _Line) -> None:
        values = line.rewards or {}
        for name in values.keys() - self.rewards.keys():
            self.rewards[name] = array("d", [math.nan]) * len(self.offsets)
        for name, column in self.rewards.items():
            column.append(_float(values.get(name)))
        self.offsets.append(at)
        self.lines.append(number)
        self.steps.append(line.step)
        self.totals.append(_float(line.reward))
        self.trouble.append(math.nan if line.end is None else TROUBLE.get(line.end, 1.0))
        self.turns.append(math.nan if line.turns is None else len(line.turns))
        answers = [turn.answer_s for turn in line.turns or () if turn.answer_s]
        self.slowest.append(max(answers, default=math.nan))
        self.texts.append(hash(bytes(line.completion) + bytes(line.messages)))
        self.prompts.append(hash(bytes(line.prompt)))


def _decode(
    decoder: msgspec.json.Decoder[_Line], line: bytes, number: int, damage: Damage
) -> _Line | None:
    try:
        found = decoder.decode(line.decode())
        if bytes(found.prompt)[:1] == bytes(found.completion)[:1] == b'"':
            return found
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    record = decode(line, SampleRecord, number, damage)  # takes more, or says what is wrong
    if record is None:
        return None
    prompt, completion = (
        msgspec.Raw(json.dumps(text).encode()) for text in (record["prompt"], record["completion"])
    )
    turns = [_Turn(turn.get("answer_s")) for turn in record["turns"]] if "turns" in record else None
    return _Line(
        record["step"],
        prompt,
        completion,
        record.get("reward"),
        record.get("rewards"),
        msgspec.Raw(json.dumps(record.get("messages", "")).encode()),
        record.get("end"),
        turns,
    )


def read_columns(path: Path) -> SampleColumns:
    """Reads samples.jsonl once; a missing file has no samples."""
    columns, decoder, damage = _Columns(), msgspec.json.Decoder(_Line), Damage()
    for at, number, text in iterate_lines(path, damage):
        if (line := _decode(decoder, text, number, damage)) is not None:
            columns.add(at, number, line)
    return SampleColumns(
        path=path,
        offsets_N=np.array(columns.offsets, dtype=np.int64),
        steps_N=np.array(columns.steps, dtype=np.float64),
        totals_N=np.array(columns.totals, dtype=np.float64),
        texts_N=np.array(columns.texts, dtype=np.int64),
        prompts_N=np.array(columns.prompts, dtype=np.int64),
        by_reward={
            name: np.array(columns.rewards[name], dtype=np.float64)
            for name in sorted(columns.rewards)
        },
        lines_N=np.array(columns.lines, dtype=np.int64),
        trouble_N=np.array(columns.trouble, dtype=np.float64),
        turns_N=np.array(columns.turns, dtype=np.float64),
        slowest_N=np.array(columns.slowest, dtype=np.float64),
        damage=damage,
    )


def standardize(values_N: Floats) -> Floats:
    """(x − mean) / standard deviation over the samples with a value, [N].

    All NaN where the values are equal, or too far apart for their deviation to be a number.
    """
    known = values_N[np.isfinite(values_N)]
    if not len(known) or known.min() == known.max():
        return np.full_like(values_N, np.nan)
    with np.errstate(all="ignore"):
        deviation = known.std()
        usable = np.isfinite(deviation) and deviation > 0
        return (values_N - known.mean()) / deviation if usable else np.full_like(values_N, np.nan)


def measure_disagreement(columns: Iterable[Floats]) -> Floats:
    """Largest minus smallest of each sample's values, over columns of standardized rewards, [N].

    NaN for a sample with fewer than two values.
    """
    stacked_RN = np.stack(list(columns))
    known_RN = np.isfinite(stacked_RN)
    highest_N = np.where(known_RN, stacked_RN, -np.inf).max(axis=0)
    lowest_N = np.where(known_RN, stacked_RN, np.inf).min(axis=0)
    return np.where(known_RN.sum(axis=0) >= 2, highest_N - lowest_N, np.nan)


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)
