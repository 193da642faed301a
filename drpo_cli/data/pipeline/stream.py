"""The prompts of each step: who is served, who is passed over, and which rank gets what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drpo_cli.data.pipeline.curriculum import Curriculum
from drpo_cli.data.pipeline.order import Cursor, Order
from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.rows import Source
from drpo_cli.data.pipeline.split import Split, split
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.settings import EvalSettings, SourceSettings
from drpo_cli.types import Prompt

RESTS = "resting"


@dataclass(frozen=True)
class Batching:
    """How many prompts a step takes over all ranks, in which order, and whose share is wanted."""

    prompts_per_step: int
    seed: int
    rank: int = 0
    world: int = 1


class PromptStream:
    """Endless training prompts, reshuffled every epoch; the rest of an epoch joins the next one.

    All ranks walk the same global order and each takes its part of a step, so that the order
    depends neither on the number of ranks nor on which rows are skipped, and a state saved on
    one world size continues on any other.
    """

    def __init__(self, data: Split, prompts: Prompts, batching: Batching) -> None:
        if batching.prompts_per_step % batching.world:
            raise UserError(
                f"rollout.prompts_per_step = {batching.prompts_per_step} does not divide among "
                f"{batching.world} processes; make it a multiple"
            )
        self._split = data
        self._prompts = prompts
        self._batching = batching
        self._order = Order(data, batching.seed)
        self._curriculum = Curriculum(batching.seed, data.sources, data.held_out_rows)
        self._skipped: Counter[str] = Counter()

    def next(self) -> list[Prompt]:
        """This rank's prompts_per_step / world prompts of the next step."""
        step_P = [self._next_prompt() for _ in range(self._batching.prompts_per_step)]
        share = len(step_P) // self._batching.world
        return step_P[self._batching.rank * share :][:share]

    def observe(self, rates: Mapping[str, float]) -> None:
        """Take in the share of right responses of served prompts, by id, of all ranks alike.

        Steers sources with `sampling = "difficulty"`; others are ignored. A state to continue
        from is saved after the step's rates, not before.
        """
        self._curriculum.observe(rates)

    @property
    def skipped(self) -> dict[str, int]:
        """Turns of rows passed over for their length so far, by the option that says so."""
        return dict(self._skipped)

    @property
    def rows_by_rate(self) -> dict[str, int]:
        """Rows `unseen`, `always_wrong`, `between`, `always_right` by their last pass rate.

        Of the sources with `sampling = "difficulty"`; empty when there are none.
        """
        return self._curriculum.counts()

    def metrics(self) -> dict[str, dict[str, int]]:
        """What is worth recording of a step: `skipped` and `rows_by_rate`, where there are any."""
        counts = {"skipped_prompts": self.skipped, "rows_by_rate": self.rows_by_rate}
        return {name: found for name, found in counts.items() if found}

    def state_dict(self) -> dict[str, Any]:
        """All that the next prompts depend on, the same on every rank, for JSON."""
        return {
            **self._order.state_dict(),
            "skipped": self.skipped,
            "pass_rates": dict(self._curriculum.rates),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state. Raises UserError when the data is not what it was."""
        if state.keys() != self.state_dict().keys():
            raise UserError(
                "data: the checkpoint's place in the data was saved by another version of drpo "
                f"(it has: {', '.join(state)}); resume with that version, or start a new run"
            )
        self._order.load_state_dict(state)
        self._skipped = Counter(state["skipped"])
        self._curriculum.rates = dict(state["pass_rates"])

    def _next_prompt(self) -> Prompt:
        cursor = self._order.next()
        found = self._search(cursor, rest=True)
        if not isinstance(found, Prompt) and RESTS in found:  # all there is left has been learned
            found = self._search(cursor, rest=False)
        if isinstance(found, Prompt):
            return found
        rows = cursor.rows
        whose = f"source {rows.name}" if isinstance(rows, Source) else "the training data"
        raise UserError(
            f"data: every prompt of {whose} is {' or '.join(sorted(found))}; raise "
            "rollout.context_length, lower rollout.max_new_tokens, or change those options"
        )

    def _search(self, cursor: Cursor, rest: bool) -> Prompt | set[str]:
        """The next prompt that can be served, or why there is none within reach.

        `rest`: rows that the curriculum lets rest are passed over.
        """
        reasons = set()
        for _ in range(cursor.patience):
            row = cursor.take()
            if not self._split.trains(row):
                reasons.add("held out")
            elif rest and self._curriculum.rests(row, cursor.epoch):
                reasons.add(RESTS)
            else:
                made = self._prompts.make(row)
                if isinstance(made, Prompt):
                    return made
                self._skipped[made] += 1
                reasons.add(f"skipped by {made}")
        return reasons


@dataclass(frozen=True)
class Data:
    """What a run reads.

    stream            training prompts
    held_out          evaluation prompts, the same on every rank
    train_rows        rows of the training sources; held-out ones among them are passed over when
                      their turn comes, so that nothing is read up front
    held_out_skipped  held-out rows left out for their length, by the option that says so
    """

    stream: PromptStream
    held_out: list[Prompt]
    train_rows: int
    held_out_skipped: Mapping[str, int]


def open_data(
    sources: Sequence[Selected[SourceSettings]],
    eval_sources: Sequence[Selected[SourceSettings]],
    evaluation: EvalSettings,
    prompts: Prompts,
    batching: Batching,
) -> Data:
    """Open the sources, hold out the evaluation problems and start the training stream.

    Raises UserError for what `split` refuses, for held-out prompts that are all skipped, and for
    one that cannot be made.
    """
    data = split(sources, eval_sources, evaluation.problems, evaluation.overlap)
    made = [prompts.make(row) for row in data.held_out_rows]
    held_out = [prompt for prompt in made if isinstance(prompt, Prompt)]
    skipped = Counter[str](reason for reason in made if not isinstance(reason, Prompt))
    if skipped and not held_out:
        raise UserError(
            f"data: all {len(made)} held-out prompts are skipped by {' or '.join(sorted(skipped))}"
            "; raise rollout.context_length, lower max_new_tokens, or change those options"
        )
    return Data(PromptStream(data, prompts, batching), held_out, len(data.rows), skipped)
