"""A run on disk: the one reading of its files, for reports, views, commands and notebooks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from drpo_cli.runs import events as progress
from drpo_cli.runs.flat import flatten
from drpo_cli.runs.folder import RunFolder, open_folder
from drpo_cli.runs.metrics import (
    EventRecord,
    HeldOutRecord,
    QuarantineRecord,
    SampleRecord,
    StepMetrics,
    WarmUpRecord,
)
from drpo_cli.runs.reader import DEEPEST, Damage, describe_error, iterate, measure_depth, read_text
from drpo_cli.runs.spec import Roles, find_roles, find_steps, read_tables

if TYPE_CHECKING:
    from drpo_cli.runs.alerts import Alert
    from drpo_cli.runs.samples import SampleColumns
    from drpo_cli.runs.suspicion import Pair
    from drpo_cli.spec import Spec


R = TypeVar("R")


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
        self._notes: dict[str, Sequence[str]] = {}

    def __repr__(self) -> str:
        return f"SavedRun({str(self.folder.path)!r})"

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The resolved spec as tables, of any version: `run.spec["objective"]["delta"]`."""
        found, why = read_tables(self.folder)
        if why:
            self._note("spec.toml", why)
        return found

    @cached_property
    def spec_text(self) -> str:
        """The text of spec.toml, valid TOML or not."""
        try:
            return read_text(self.folder.spec, errors="replace")
        except OSError as error:
            self._note("spec.toml", f"spec.toml {describe_error(error)}")
            return ""

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
            found = json.loads(read_text(self.folder.versions))
        except (OSError, ValueError, RecursionError) as error:
            self._note("versions.json", f"versions.json {describe_error(error)}")
            return {}
        if isinstance(found, dict) and measure_depth(found) <= DEEPEST:
            return found
        self._note("versions.json", "versions.json is not a table of values, and left out")
        return {}

    @cached_property
    def metrics(self) -> list[StepMetrics]:
        """The metrics of each step, in order; step 0 is the untrained model's evaluation."""
        return self._read(self.folder.metrics, StepMetrics)

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
            for line in self._read(self.folder.held_out, HeldOutRecord)
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
            if (score := record.get("held_out")) is not None
        ]

    @cached_property
    def warm_up(self) -> list[WarmUpRecord]:
        """The updates of the supervised warm-up, in order; `step` counts them."""
        return self._read(self.folder.warm_up, WarmUpRecord)

    @property
    def held_out_set(self) -> str | None:
        """Hash of what held-out scores depend on; equal for runs whose scores compare."""
        return self.metrics[0].get("held_out_set") if self.metrics else None

    @property
    def final_score(self) -> float | None:
        """The newest held-out score after training began; None where there is none."""
        scores = [each.score for each in self.held_out if each.step > 0]
        return scores[-1] if scores else None

    def samples(self) -> Iterator[SampleRecord]:
        """Yields the sampled responses, in the order in which they were written."""
        return self._iterate(self.folder.samples, SampleRecord)

    def quarantine(self) -> Iterator[QuarantineRecord]:
        """Yields the failed calls of rewards."""
        return self._iterate(self.folder.quarantine, QuarantineRecord)

    @cached_property
    def sample_columns(self) -> SampleColumns:
        """All samples in columns of numbers, without their texts in memory."""
        from drpo_cli.runs.samples import read_columns

        columns = read_columns(self.folder.samples)
        self._note_damage(columns.path, columns.damage)
        return columns

    @cached_property
    def events(self) -> list[EventRecord]:
        """What the run wrote once: started, resumed, stopped, failed."""
        return self._read(self.folder.events, EventRecord)

    @cached_property
    def state(self) -> str:
        """`starting`, `running`, `finished`, `stopped` or `failed`; `unknown` if unreadable."""
        try:
            return progress.state(self.folder)
        except OSError as error:
            self._note("state", f"its state {describe_error(error)}")
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
        return tuple(text for texts in self._notes.values() for text in texts)

    def _read(self, path: Path, kind: type[R]) -> list[R]:
        return list(self._iterate(path, kind))

    def _iterate(self, path: Path, kind: type[R]) -> Iterator[R]:
        damage = Damage()
        yield from iterate(path, kind, damage)
        self._note_damage(path, damage)

    def _note_damage(self, path: Path, damage: Damage) -> None:
        being_written = damage.cut and self.state in ("starting", "running")
        self._note(path.name, *damage.describe(path.name, being_written))

    def _note(self, about: str, *texts: str) -> None:
        self._notes[about] = texts


def open_run(folder: Path | str) -> SavedRun:
    """Opens the folder of a run, running or ended. Raises UserError when it is not one."""
    return SavedRun(open_folder(Path(folder)))
