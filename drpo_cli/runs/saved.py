"""A run on disk: the one reading of its files, for reports, views, commands and notebooks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from drpo_cli.errors import UserError
from drpo_cli.runs import events as progress
from drpo_cli.runs.folder import RunFolder, open_folder
from drpo_cli.runs.metrics import EventRecord, SampleRecord, StepMetrics, flatten
from drpo_cli.runs.records import Tail, parse_line
from drpo_cli.runs.spec import Roles, find_roles, find_steps, read_spec

if TYPE_CHECKING:
    from drpo_cli.runs.alerts import Alert
    from drpo_cli.runs.samples import SampleColumns
    from drpo_cli.runs.suspicion import Pair
    from drpo_cli.spec import Spec


class HeldOutScore(NamedTuple):
    """The held-out score of one step.

    score      avg@k in [0, 1]
    low, high  its 95 % interval; None for a single problem
    unscored   responses that count as wrong because a reward failed on them
    rates      share of right responses of each problem, always in the same order; empty for a run
               of an older version
    """

    step: int
    score: float
    low: float | None
    high: float | None
    unscored: int
    rates: tuple[float, ...]


class SavedRun:
    """A run folder, read lazily: each file once, when it is first needed.

    A run that is still training has written more since; `open_run` again to see it. What could not
    be read is left out and described in `notes`.

    name  what a page calls the run
    """

    def __init__(self, folder: RunFolder, name: str = "") -> None:
        self.folder = folder
        self.name = name or folder.path.absolute().name
        self._notes: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"SavedRun({str(self.folder.path)!r})"

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The resolved spec as tables, of any version: `run.spec["objective"]["delta"]`."""
        try:
            return read_spec(self.folder)
        except UserError as error:
            self._note(str(error))
            return {}

    def load_spec(self) -> Spec:
        """The resolved spec, validated; loads the plugins that it names.

        Raises UserError when it is not valid in this version of drpo.
        """
        from drpo_cli.spec import load

        return load(self.folder.spec)

    @cached_property
    def versions(self) -> dict[str, Any]:
        """Versions of packages, and the machine, as versions.json has them."""
        try:
            found = json.loads(self.folder.versions.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self._note(f"versions.json cannot be read: {error}")
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def metrics(self) -> list[StepMetrics]:
        """The metrics of each step, in order; step 0 is the untrained model's evaluation."""
        return cast(list[StepMetrics], self._read(self.folder.metrics))

    def metrics_flat(self) -> list[dict[str, Any]]:
        """The metrics with one value per key, for a data frame.

        Nested keys are joined by dots: `rewards.exact_match`, `seconds.step`.
        """
        return [
            {key: value for key, value in flatten(record) if not isinstance(value, dict)}
            for record in self.metrics
        ]

    @property
    def trained(self) -> list[StepMetrics]:
        """The metrics of the training steps, without the untrained model's evaluation."""
        return [record for record in self.metrics if "reward" in record]

    @property
    def last_step(self) -> int:
        """The newest step on record, 0 where there is none."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def steps(self) -> int | None:
        """The steps that the spec asks for."""
        return find_steps(self.spec)

    @cached_property
    def held_out(self) -> list[HeldOutScore]:
        """The held-out score of each evaluated step, in order; step 0 is the untrained model's."""
        rates = {
            line["step"]: tuple(line["rates"])
            for line in self._read(self.folder.held_out)
            if isinstance(line.get("rates"), list)
        }
        return [
            HeldOutScore(
                record["step"],
                score,
                record.get("held_out_low"),
                record.get("held_out_high"),
                record.get("held_out_unscored", 0),
                rates.get(record["step"], ()),
            )
            for record in self.metrics
            if isinstance(score := record.get("held_out"), int | float)
        ]

    @property
    def held_out_set(self) -> str | None:
        """Hash of what held-out scores depend on; equal for runs whose scores compare."""
        found = self.metrics[0].get("held_out_set") if self.metrics else None
        return found if isinstance(found, str) else None

    @property
    def final_score(self) -> float | None:
        """The newest held-out score after training began; None where there is none."""
        scores = [each.score for each in self.held_out if each.step > 0]
        return scores[-1] if scores else None

    def samples(self) -> Iterator[SampleRecord]:
        """Yields the sampled responses, in the order in which they were written."""
        yield from cast(Iterator[SampleRecord], _iterate(self.folder.samples))

    def quarantine(self) -> Iterator[dict[str, Any]]:
        """Yields the failed calls of rewards."""
        yield from _iterate(self.folder.quarantine)

    @cached_property
    def sample_columns(self) -> SampleColumns:
        """All samples in columns of numbers, without their texts in memory."""
        from drpo_cli.runs.samples import read_columns

        columns = read_columns(self.folder.samples)
        self._note_damage(columns.path, columns.cut, columns.broken)
        return columns

    @cached_property
    def events(self) -> list[EventRecord]:
        """What the run wrote once: started, resumed, stopped, failed."""
        return cast(list[EventRecord], Tail(self.folder.events).new())

    @cached_property
    def state(self) -> str:
        """`starting`, `running`, `finished`, `stopped` or `failed`; `unknown` if unreadable."""
        try:
            return progress.state(self.folder)
        except OSError as error:
            self._note(f"its state cannot be read: {error}")
            return "unknown"

    @cached_property
    def roles(self) -> Roles:
        """What each reward does to the total, by the spec."""
        return find_roles(self.spec)

    @cached_property
    def alerts(self) -> list[Alert]:
        """What went wrong, in the order of the steps where it began."""
        from drpo_cli.runs.alerts import alerts

        return alerts(self.metrics)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Each reward compared with the total, to find reward hacking."""
        from drpo_cli.runs.suspicion import pairs

        return pairs(self.metrics, self.roles)

    @property
    def notes(self) -> Sequence[str]:
        """What could not be read of the files read so far."""
        return tuple(self._notes)

    def _read(self, path: Path) -> list[dict[str, Any]]:
        tail = Tail(path)
        try:
            records = [record for record in tail.new() if isinstance(record.get("step"), int)]
        except OSError as error:
            self._note(f"{path.name} cannot be read: {error.strerror}")
            return []
        self._note_damage(path, tail.cut, tail.broken)
        return records

    def _note_damage(self, path: Path, cut: bool, broken: int) -> None:
        if cut and self.state not in ("starting", "running"):  # else it is being written
            self._note(f"the last line of {path.name} was cut off, as by a kill; it is left out")
        if broken:
            what = "1 line is" if broken == 1 else f"{broken:,} lines are"
            self._note(f"{path.name}: {what} not a whole record, and left out")

    def _note(self, text: str) -> None:
        self._notes[text] = None


def open_run(folder: Path | str) -> SavedRun:
    """Opens the folder of a run, running or ended. Raises UserError when it is not one."""
    return SavedRun(open_folder(Path(folder)))


def _iterate(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with path.open("rb") as file:
            for line in file:
                if (record := parse_line(line)) is not None:
                    yield record
