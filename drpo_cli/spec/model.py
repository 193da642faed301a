"""`Spec`, one run with all its settings, and the sections that a spec file has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from drpo_cli.plugins import Selected
from drpo_cli.settings import (
    AbsentKeyError,
    AdvantageSettings,
    CheckpointSettings,
    CriticSettings,
    EnvironmentSettings,
    EvalSettings,
    EvalSuiteSettings,
    LoraSettings,
    ModelSettings,
    ObjectiveSettings,
    ParallelSettings,
    ReferenceSettings,
    RewardSettings,
    RolloutSettings,
    RunSettings,
    Settings,
    SftSettings,
    SourceSettings,
    TeacherSettings,
    TrackerSettings,
    TrainSettings,
)
from drpo_cli.spec.problems import Diagnostic, Source

SECTIONS: dict[str, type[Settings]] = {
    "run": RunSettings,
    "model": ModelSettings,
    "train": TrainSettings,
    "lora": LoraSettings,
    "reference": ReferenceSettings,
    "teacher": TeacherSettings,
    "critic": CriticSettings,
    "sft": SftSettings,
    "parallel": ParallelSettings,
    "eval": EvalSettings,
    "checkpoint": CheckpointSettings,
}
"""Sections that select no plugin."""
OPTIONAL = frozenset({"environment", "lora", "reference", "teacher", "critic", "sft", "tracker"})
"""Sections whose part of a run does not exist without them."""
OTHER_MODELS = ("reference", "teacher", "critic")
"""Sections with the path of a model beside the policy."""


@dataclass(frozen=True)
class Choice:
    """A section that selects one plugin: its kind, the key that names it, and the default."""

    kind: str
    selector: str = "type"
    default: str | None = None


CHOICES = {
    "rollout": Choice("rollout", "engine", "vllm"),
    "advantage": Choice("advantages", default="group_mean"),
    "objective": Choice("objectives", default="drpo"),
}
LISTS = {
    "data": Choice("data"),
    "environment": Choice("environments"),
    "reward": Choice("rewards"),
    "tracker": Choice("trackers"),
}
"""Arrays of tables, each of which selects one plugin."""
WITH_DATA = ("eval", "sft")
"""Sections with an array of sources of their own: `[[eval.data]]` is like `[[data]]`."""
SUITES = ("eval", "suite")
"""The array of suites that a run is scored on, which select no plugin."""
ARRAYS = (*((name,) for name in LISTS), *((name, "data") for name in WITH_DATA), SUITES)
"""The keys of all arrays of tables."""

ORDER = (
    "run",
    "model",
    "data",
    "rollout",
    "environment",
    "reward",
    "advantage",
    "objective",
    "train",
    "lora",
    "reference",
    "teacher",
    "critic",
    "sft",
    "parallel",
    "eval",
    "checkpoint",
    "tracker",
)


@dataclass(frozen=True)
class Spec:
    """All settings of a run. Two specs are equal when they describe the same run."""

    path: Path = field(compare=False)
    folder: Path = field(compare=False)
    run: RunSettings
    model: ModelSettings
    data: tuple[Selected[SourceSettings], ...]
    rollout: Selected[RolloutSettings]
    reward: tuple[Selected[RewardSettings], ...]
    advantage: Selected[AdvantageSettings]
    objective: Selected[ObjectiveSettings]
    train: TrainSettings
    lora: LoraSettings | None
    reference: ReferenceSettings | None
    teacher: TeacherSettings | None
    critic: CriticSettings | None
    sft: SftSettings | None
    parallel: ParallelSettings
    eval: EvalSettings
    eval_data: tuple[Selected[SourceSettings], ...]
    checkpoint: CheckpointSettings
    # no class attribute, which would hide that the section is absent
    environment: tuple[Selected[EnvironmentSettings], ...] = field(default_factory=tuple)
    sft_data: tuple[Selected[SourceSettings], ...] = field(default_factory=tuple)
    eval_suites: tuple[EvalSuiteSettings, ...] = field(default_factory=tuple)
    tracker: tuple[Selected[TrackerSettings], ...] = field(default=(), compare=False)
    preset: str | None = field(default=None, compare=False)
    warnings: tuple[Diagnostic, ...] = field(default=(), compare=False)
    source: Source = field(default=Source(""), compare=False, repr=False)

    def own_data(self, section: str) -> tuple[Selected[SourceSettings], ...]:
        """The sources that a section of `WITH_DATA` has of its own; none for other sections."""
        return {"eval": self.eval_data, "sft": self.sft_data}.get(section, ())

    def environment_of(self, source: SourceSettings) -> Selected[EnvironmentSettings] | None:
        """The environment of a source: the one that it names, else the first; None without any."""
        if source.environment is None:
            return next(iter(self.environment), None)
        found = (one for one in self.environment if one.config.name == source.environment)
        return next(found, None)

    if not TYPE_CHECKING:  # for mypy, every section is there

        def __getattr__(self, name):
            if name in type(self).__dataclass_fields__:
                raise AbsentKeyError(name)
            raise AttributeError(f"a Spec has no attribute {name!r}")
