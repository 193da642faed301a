"""Rules over the supervised warm-up: `[sft]` and `[[sft.data]]`."""

from __future__ import annotations

from collections.abc import Iterator

from drpo_cli.settings import SourceSettings
from drpo_cli.spec.model import Spec
from drpo_cli.spec.problems import Problem


def something_is_trained(spec: Spec) -> Iterator[Problem]:
    if not spec.run.steps and spec.sft is None:
        what = "is 0, and there is no [sft] to warm up with; make it at least 1"
        yield Problem(("run", "steps"), what)


def rate_rises_in_time(spec: Spec) -> Iterator[Problem]:
    if spec.sft is not None and spec.sft.warmup_updates >= spec.sft.updates:
        yield Problem(
            ("sft", "warmup_updates"),
            f"is {spec.sft.warmup_updates}; must be below sft.updates, which is "
            f"{spec.sft.updates}, or the learning rate never reaches its peak",
            also=(("sft", "updates"),),
        )


def reference_is_warm(spec: Spec) -> Iterator[Problem]:
    if spec.sft is not None and spec.reference is not None and spec.reference.path is None:
        yield Problem(
            ("reference",),
            "would be the model before [sft], and undo what the warm-up learns; give the warm-up a "
            "run of its own and start this one with --from, or name a model in reference.path",
            also=(("sft",),),
        )


def warm_up_plays_no_episodes(spec: Spec) -> Iterator[Problem]:
    if spec.sft is not None and spec.environment:
        yield Problem(
            ("sft",),
            "learns the answer of a row as one response, and the [[environment]] makes episodes of "
            "several turns; give the warm-up a run of its own, without one, and start this one "
            "with --from",
            also=(("environment",),),
        )


def options_of_rollouts(spec: Spec) -> Iterator[Problem]:
    defaults = SourceSettings()
    for index, source in enumerate(spec.sft_data):
        for name in ("sampling", "rewards", "environment"):
            if getattr(source.config, name) != getattr(defaults, name):
                what = "has no effect here: the warm-up samples and scores nothing; remove it"
                yield Problem(("sft", "data", index, name), what, on_key=True)


def divides(spec: Spec, world: int) -> Iterator[Problem]:
    """Whether `world` processes can share the examples of an update evenly."""
    if spec.sft is not None and spec.sft.examples_per_update % world:
        yield Problem(
            ("sft", "examples_per_update"),
            f"is {spec.sft.examples_per_update}, which {world} processes cannot share evenly; make "
            f"it a multiple of {world}, or change --nproc",
        )


def describe(spec: Spec) -> Iterator[tuple[str, str]]:
    """The supervised updates before the first step, in words."""
    if spec.sft is None:
        return
    sft, sources = spec.sft, spec.sft_data or spec.data
    early = "" if sft.stop_at is None else f", or until {sft.stop_at:.0%} of answers are given"
    yield (
        "warm-up",
        f"{sft.updates:,} supervised updates of {sft.examples_per_update:,} answers of "
        f"{', '.join(source.type for source in sources)}{early}",
    )


ERRORS = (
    something_is_trained,
    rate_rises_in_time,
    reference_is_warm,
    warm_up_plays_no_episodes,
    options_of_rollouts,
)
