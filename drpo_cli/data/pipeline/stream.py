"""The training prompts of each step: their order, whose turn it is, and which rank gets which."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from drpo_cli.data.pipeline.checks import check_rows, list_remarks
from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.rows import Row, Source, is_endless
from drpo_cli.data.pipeline.split import NO_SUITES, PATIENCE, Split, shuffle, split
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.settings import EvalSettings, SourceSettings
from drpo_cli.types import Prompt

ONE_IN = 4
"""With `sampling = "difficulty"`, a row that was all right or all wrong is served in one epoch of
this many, on average."""
RESTING = "resting"


class Turns:
    """Smooth weighted round robin: each turn goes to the source that is furthest behind its share.

    A source is never a whole turn ahead of its share, so with whole-number weights every
    sum(weights) turns give each source exactly its weight. The arithmetic is exact and uses no
    random numbers; `taken` counts each source's turns and is the whole state.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        # Of the number as it is written: 0.1 is a tenth, not the float next to it.
        parts = [Fraction(repr(weight)) for weight in weights]
        scale = math.lcm(*(part.denominator for part in parts))
        self._shares = [int(part * scale) for part in parts]
        self.taken = [0] * len(parts)

    def next(self) -> int:
        """The source of the next prompt; the first one of several that are equally far behind."""
        turn, total = sum(self.taken) + 1, sum(self._shares)
        behind = [
            turn * share - taken * total
            for share, taken in zip(self._shares, self.taken, strict=True)
        ]
        source = behind.index(max(behind))
        self.taken[source] += 1
        return source


class Cursor:
    """A place in the endless order of some rows, which (seed, epoch, key) shuffles every epoch.

    The rows of an endless source keep their own order. `patience` is how many rows may be unusable,
    one after the other, before the search for a usable one stops.
    """

    def __init__(self, rows: Sequence[Row], seed: int, key: tuple[int, ...] = ()) -> None:
        self.rows = rows
        # A usable row comes at the latest at the end of the epoch after this one.
        self.patience = PATIENCE if is_endless(rows) else 2 * len(rows)
        self._seed, self._key = seed, key
        self.go_to(0, 0)

    def go_to(self, epoch: int, position: int) -> None:
        """Moves to just before the row at `position` of `epoch`."""
        self.epoch, self.position = epoch, position
        self._order: Sequence[int] | Any = (
            range(len(self.rows))
            if is_endless(self.rows)
            else shuffle(len(self.rows), self._seed, epoch, *self._key)
        )

    def next(self) -> Row:
        """The next row."""
        if self.position == len(self._order):
            self.go_to(self.epoch + 1, 0)
        row: Row = self.rows[self._order[self.position]]
        self.position += 1
        return row


class Curriculum:
    """`sampling = "difficulty"`: the last pass rate of each row, and which rows rest because of it.

    A group whose responses are all right, or all wrong, has no advantage to learn from, so its row
    comes back less often. A hash decides whether it rests in an epoch, which leaves no random
    generator to save.
    """

    def __init__(self, seed: int, sources: Sequence[Source], held_out: Sequence[Row]) -> None:
        tracked = [source for source in sources if source.config.sampling == "difficulty"]
        self._seed = seed
        self._names = frozenset(source.name for source in tracked)
        self._rows = sum(map(len, tracked)) - sum(self._tracks(row.id) for row in held_out)
        self.rates: dict[str, float] = {}

    def observe(self, rates: Mapping[str, float]) -> None:
        """Takes in pass rates by prompt id; the last one of a row counts."""
        for id, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ValueError(f"pass rate of {id} is {rate}, not in [0, 1]")
            if self._tracks(id):
                self.rates[id] = float(rate)

    def rests(self, row: Row, epoch: int) -> bool:
        """Whether a row is left out of this epoch."""
        if self.rates.get(row.id) not in (0.0, 1.0):
            return False
        key = f"{self._seed} {epoch} {row.id}".encode()
        return hashlib.blake2b(key, digest_size=1).digest()[0] % ONE_IN != 0

    def count_rows(self) -> dict[str, int]:
        """Rows by their last pass rate; empty when no source has a curriculum.

        `unseen` includes rows that are never served: too short or long, or equal to a held-out
        problem.
        """
        if not self._names:
            return {}
        right = sum(rate == 1 for rate in self.rates.values())
        wrong = sum(rate == 0 for rate in self.rates.values())
        return {
            "unseen": self._rows - len(self.rates),
            "always_wrong": wrong,
            "between": len(self.rates) - right - wrong,
            "always_right": right,
        }

    def _tracks(self, id: str) -> bool:
        return id.rpartition("/")[0] in self._names


@dataclass(frozen=True)
class Batching:
    """How many prompts a step takes over all ranks, their seed, and which rank this is."""

    prompts_per_step: int
    seed: int
    rank: int = 0
    world: int = 1


class PromptStream:
    """Endless training prompts, reshuffled every epoch; a step may cross from one to the next.

    All ranks follow the same global order and each takes its part of a step. So the order depends
    neither on the number of ranks nor on which rows are skipped, and a state saved on one world
    size continues on any other.
    """

    def __init__(self, data: Split, prompts: Prompts, batching: Batching) -> None:
        if batching.prompts_per_step % batching.world:
            raise UserError(
                f"rollout.prompts_per_step = {batching.prompts_per_step} does not divide among "
                f"{batching.world} processes",
                "make it a multiple",
            )
        self._split = data
        self._prompts = prompts
        self._batching = batching
        self._sources = [[s.name, len(s), s.config.weight] for s in data.sources]
        keys: list[tuple[int, ...]] = [()]
        weights: list[float] = [1]
        if data.weighted:
            # From 2 on: (seed, epoch) alone and the held-out choice shuffle by other keys.
            keys = [(at + 2,) for at in range(len(data.pools))]
            weights = [source.config.weight or 0 for source in data.sources]
        pools = zip(data.pools, keys, strict=True)
        self._cursors = [Cursor(rows, batching.seed, key) for rows, key in pools]
        self._turns = Turns(weights)
        self._curriculum = Curriculum(batching.seed, data.sources, data.held_out_rows)
        self._skipped: Counter[str] = Counter()
        self._step_end = self._place()

    def next(self) -> list[Prompt]:
        """This rank's prompts_per_step / world prompts of the next step.

        Raises UserError for a row that cannot be used, on every rank; the stream is then where the
        last step ended, so that its state can be saved.
        """
        try:
            step_P = [self._next_prompt() for _ in range(self._batching.prompts_per_step)]
        except UserError:
            self._go_to(self._step_end)
            raise
        share = len(step_P) // self._batching.world
        return step_P[self._batching.rank * share :][:share]

    def observe(self, rates: Mapping[str, float]) -> None:
        """Takes in the share of right responses by prompt id; every rank passes the same rates.

        Only sources with `sampling = "difficulty"` use them. Call it once per step, when the step
        has all of its prompts, and save the state after that.
        """
        self._curriculum.observe(rates)
        self._step_end = self._place()

    @property
    def skipped(self) -> dict[str, int]:
        """How often rows were skipped for their length so far, by the option that decides it."""
        return dict(self._skipped)

    @property
    def rows_by_rate(self) -> dict[str, int]:
        """Rows `unseen`, `always_wrong`, `between`, `always_right` by their last pass rate.

        Counts the sources with `sampling = "difficulty"`; empty when there are none.
        """
        return self._curriculum.count_rows()

    def metrics(self) -> dict[str, dict[str, int]]:
        """A step's metrics: `skipped_prompts` and `rows_by_rate`, where they are not empty."""
        counts = {"skipped_prompts": self.skipped, "rows_by_rate": self.rows_by_rate}
        return {name: found for name, found in counts.items() if found}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next prompts depend on, for JSON; the same on every rank."""
        rates = dict(self._curriculum.rates)
        return {"sources": self._sources, **self._place(), "pass_rates": rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state. Raises UserError when the data has changed since."""
        if state.keys() != self.state_dict().keys():
            raise UserError(
                "data: the checkpoint's place in the data was saved by another version of drpo "
                f"(it has: {', '.join(state)})",
                "resume with that version, or start a new run",
            )
        if state["sources"] != self._sources:
            raise UserError(
                f"data: the checkpoint was made with {_describe(state['sources'])}, now the "
                f"training data is {_describe(self._sources)}",
                "resume with the same data, or start a new run",
            )
        self._go_to(state)
        self._curriculum.rates = dict(state["pass_rates"])
        self._step_end = self._place()

    def _place(self) -> dict[str, Any]:
        return {
            "cursors": [[cursor.epoch, cursor.position] for cursor in self._cursors],
            "turns": list(self._turns.taken),
            "skipped": self.skipped,
        }

    def _go_to(self, place: Mapping[str, Any]) -> None:
        for cursor, at in zip(self._cursors, place["cursors"], strict=True):
            cursor.go_to(*at)
        self._turns.taken = list(place["turns"])
        self._skipped = Counter(place["skipped"])

    def _next_prompt(self) -> Prompt:
        cursor = self._cursors[self._turns.next()]
        found = self._search(cursor, rest=True)
        if not isinstance(found, Prompt) and RESTING in found:  # all usable rows rest
            found = self._search(cursor, rest=False)
        if isinstance(found, Prompt):
            return found
        rows = cursor.rows
        whose = f"source {rows.name}" if isinstance(rows, Source) else "the training data"
        raise UserError(
            f"data: every prompt of {whose} is {' or '.join(sorted(found))}",
            "raise rollout.context_length, lower rollout.max_new_tokens, or change those options",
        )

    def _search(self, cursor: Cursor, rest: bool) -> Prompt | set[str]:
        """The next usable prompt; if none is within the cursor's patience, the reasons why.

        `rest`: whether rows that the curriculum lets rest are left out.
        """
        reasons = set()
        for _ in range(cursor.patience):
            row = cursor.next()
            if not self._split.trains(row):
                reasons.add("held out")
            elif rest and self._curriculum.rests(row, cursor.epoch):
                reasons.add(RESTING)
            else:
                made = self._prompts.make(row)
                if isinstance(made, Prompt):
                    return replace(made, epoch=cursor.epoch)
                self._skipped[made] += 1
                reasons.add(f"skipped by {made}")
        return reasons


@dataclass(frozen=True)
class Data:
    """The data of a run.

    stream            training prompts
    held_out          evaluation prompts, the same on every rank
    train_rows        rows of the training sources, including held-out ones: these are skipped when
                      their turn comes, so that nothing needs to be read at the start
    held_out_skipped  held-out rows left out for their length, by the option that decides it
    remarks           what to know of the prompts before the first step, one sentence each
    """

    stream: PromptStream
    held_out: list[Prompt]
    train_rows: int
    held_out_skipped: Mapping[str, int]
    remarks: Sequence[str] = ()


def open_data(
    sources: Sequence[Selected[SourceSettings]],
    eval_sources: Sequence[Selected[SourceSettings]],
    evaluation: EvalSettings,
    prompts: Prompts,
    batching: Batching,
    of_suites: Mapping[str, Sequence[Row]] = NO_SUITES,
) -> Data:
    """Opens the sources, holds out the evaluation problems and starts the training stream.

    Rows that ask the same as those `of_suites`, by name, are not trained on either.

    Makes a prompt of every training row, up to `MOST_CHECKED` per source, each rank of its share:
    a row that cannot be used is found before the first step. Raises UserError for such a row, for
    what `split` refuses, for a held-out prompt that cannot be made, and when every held-out prompt
    is skipped.
    """
    data = split(sources, eval_sources, evaluation.problems, evaluation.overlap, of_suites)
    held_out, skipped = make_held_out(data.held_out_rows, prompts)
    stream = open_stream(data, prompts, batching)
    return Data(stream, held_out, len(data.rows), skipped, list_remarks(data.sources, prompts))


def open_stream(data: Split, prompts: Prompts, batching: Batching) -> PromptStream:
    """Starts a stream, after every row was checked as in `open_data`."""
    stream = PromptStream(data, prompts, batching)
    check_rows(data, prompts, batching.rank, batching.world)
    return stream


def make_held_out(rows: Sequence[Row], prompts: Prompts) -> tuple[list[Prompt], Counter[str]]:
    """The prompts of held-out rows, and how many are left out by which option.

    Raises UserError for a prompt that cannot be made, and when every prompt is skipped.
    """
    made = [prompts.make(row) for row in rows]
    held_out = [prompt for prompt in made if isinstance(prompt, Prompt)]
    skipped = Counter[str](reason for reason in made if not isinstance(reason, Prompt))
    if skipped and not held_out:
        raise UserError(
            f"data: all {len(made)} held-out prompts are skipped by {' or '.join(sorted(skipped))}",
            "raise rollout.context_length, lower max_new_tokens, or change those options",
        )
    return held_out, skipped


def _describe(sources: list[list[Any]]) -> str:
    return ", ".join(
        f"{name} ({rows} rows{'' if weight is None else f', weight {weight:g}'})"
        for name, rows, weight in sources
    )
