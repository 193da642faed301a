"""The page's charts of training: every metric over the steps, of one run or of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from drpo_cli.report.charts import (
    DASHES,
    Band,
    Line,
    Metrics,
    Panel,
    Series,
    colour,
    series,
    thin,
)
from drpo_cli.runs.saved import SavedRun

PHASES = ("rollout", "reward", "train", "sync", "evaluate")
"""Phases of a step with their own colour; logging and checkpoints are the rest."""


@dataclass(frozen=True)
class Chart:
    """Metrics that share a chart.

    lines   metrics by label
    band    two metrics, and the label of the area between them
    main    labels that are drawn in a page of several runs; all when empty
    """

    key: str
    title: str
    lines: Mapping[str, str]
    band: tuple[str, str, str] | None = None
    main: Sequence[str] = ()
    log: bool = False
    share: bool = False


def _quantiles(prefix: str, *names: str) -> dict[str, str]:
    return {name: f"{prefix}_{name}" for name in names}


CHARTS = (
    Chart(
        "held-out", "held-out avg@k", {"held-out": "held_out"},
        ("held_out_low", "held_out_high", "95 % interval"), share=True,
    ),
    Chart("reward", "training reward: mean, and one standard deviation", {"mean": "reward"}),
    Chart(
        "shift", "|π − μ|: distribution over tokens",
        _quantiles("shift", "p50", "p90", "p99", "max"),
        ("shift_p01", "shift_p99", "p01 to p99"), ("p50", "p99"), log=True,
    ),
    Chart(
        "ratio", "importance ratio r = π/μ: distribution over tokens",
        _quantiles("ratio", "min", "p50", "max"),
        ("ratio_p01", "ratio_p99", "p01 to p99"), ("max",), log=True,
    ),
    Chart(
        "weight", "gradient weight w: distribution over tokens",
        _quantiles("weight", "min", "p50", "max"),
        ("weight_p01", "weight_p99", "p01 to p99"), ("min", "max"),
    ),
    Chart(
        "share", "share of tokens",
        {kind: f"{kind}_share" for kind in ("diverging", "converging", "corrective", "masked")},
        main=("corrective", "masked"), share=True,
    ),
    Chart(
        "mass", "share of gradient mass |A r w|",
        {kind: f"{kind}_mass" for kind in ("diverging", "converging", "corrective")},
        main=("corrective",), share=True,
    ),
    Chart(
        "signal", "effective sample size, groups without a signal",
        {"sample size": "effective_sample_size", "groups": "zero_advantage_groups"}, share=True,
    ),
    Chart("entropy", "entropy, nats", {"entropy": "entropy"}),
    Chart(
        "gap", "mean |log π − log μ| after each sync", {"gap": "gap", "noise floor": "gap_floor"},
        main=("gap",), log=True,
    ),
    Chart("kl", "KL(π ‖ reference), nats", {"KL": "reference_kl"}),
    Chart("teacher", "KL(π ‖ teacher), nats", {"KL": "teacher_kl"}),
    Chart("length", "response length, tokens", {"mean": "response_length"}),
    Chart("truncated", "responses cut off", {"share": "truncated_share"}, share=True),
    Chart("loss", "loss", {"loss": "loss"}),
    Chart("grad-norm", "gradient norm before clipping", {"norm": "grad_norm"}, log=True),
    Chart("learning-rate", "learning rate", {"rate": "learning_rate"}),
    Chart(
        "critic", "critic: explained variance", {"explained variance": "explained_variance"},
    ),
    Chart("value-loss", "critic: loss", {"loss": "value_loss"}, log=True),
    Chart(
        "speed", "tokens/s",
        {"rollout": "tokens_per_second.rollout", "training": "tokens_per_second.train"},
    ),
    Chart("memory", "peak memory, GiB", {"memory": "peak_memory_gib"}),
)  # fmt: skip


def training_panels(runs: Sequence[SavedRun]) -> list[Panel]:
    """Every chart that has data; the last one shows where the step's time goes."""
    first, *others = [_panel(chart, runs) for chart in CHARTS]
    panels = [_warm_up(runs), first, _sources(runs), _suites(runs), *others]
    return [panel for panel in [*panels, _time(runs)] if panel.has_data]


def describe_thinning(runs: Sequence[SavedRun]) -> list[str]:
    """Says which runs are not drawn step by step, one sentence each."""
    drawn = {run.name: thin(run.metrics)[1] for run in runs}
    return [
        f"{name} has so many steps that one in {every} is drawn; the tables of samples, rewards "
        f"and alerts cover all of them."
        for name, every in drawn.items()
        if every > 1
    ]


def _sources(runs: Sequence[SavedRun]) -> Panel:
    """The held-out score on the problems of each source, of one run."""
    metrics = thin(runs[0].metrics)[0] if len(runs) == 1 else []
    names = dict.fromkeys(name for r in metrics for name in r.get("held_out_by_source", {}))
    lines = [
        Line(name, series(metrics, "held_out_by_source", name), colour(i), marks=True)
        for i, name in enumerate(names)
    ]
    return Panel("held-out-sources", "held-out avg@k by source", lines, share=True)


def _suites(runs: Sequence[SavedRun]) -> Panel:
    """The scores of named suites, of one run or of several."""
    lines: list[Line] = []
    for run in runs:
        metrics = thin(run.metrics)[0]
        for name in dict.fromkeys(name for r in metrics for name in r.get("suites", {})):
            label = f"{run.name}: {name}" if len(runs) > 1 else name
            found = series(metrics, "suites", name, "score")
            lines.append(Line(label, found, colour(len(lines)), marks=True))
    return Panel("suites", "avg@k on named suites", lines, share=True)


def _warm_up(runs: Sequence[SavedRun]) -> Panel:
    """The loss of supervised updates before the first step."""
    lines = [
        Line(run.name, losses, colour(place))
        for place, run in enumerate(runs)
        if (losses := [(float(r["step"]), r["loss"]) for r in run.warm_up if r["loss"] is not None])
    ]
    title = "supervised warm-up: loss of each update, nats per token"
    return Panel("warm-up", title, lines, over="update")


def _panel(chart: Chart, runs: Sequence[SavedRun]) -> Panel:
    lines, bands = [], []
    for place, run in enumerate(runs):
        metrics = thin(run.metrics)[0]
        name = run.name if len(runs) > 1 else ""
        lines += list(_lines(chart, metrics, place, name))
        if chart.key == "reward":
            bands += _deviation(metrics, colour(place), name)
        elif chart.band and (len(runs) == 1 or chart.key == "held-out"):
            bands += _band(chart.band, metrics, colour(place), name)
    return Panel(chart.key, chart.title, lines, bands, chart.log, chart.share)


def _lines(chart: Chart, metrics: Metrics, place: int, run: str) -> Iterator[Line]:
    shown = chart.main if run and chart.main else list(chart.lines)
    for i, label in enumerate(shown):
        if points := series(metrics, *chart.lines[label].split(".")):
            name = " ".join(part for part in (run, label if len(shown) > 1 else "") if part)
            yield Line(
                label=name or label,
                points=points,
                colour=colour(place if run else i),
                dash=DASHES[i % len(DASHES)] if run else "solid",
                marks="held_out" in chart.lines.values(),
            )


def _band(keys: tuple[str, str, str], metrics: Metrics, shade: str, run: str) -> list[Band]:
    low_key, high_key, label = keys
    both = [r for r in metrics if r.get(low_key) is not None and r.get(high_key) is not None]
    if not both:
        return []
    name = f"{run} {label}".strip()
    return [Band(name, series(both, low_key), series(both, high_key), shade)]


def _deviation(metrics: Metrics, shade: str, run: str) -> list[Band]:
    both = [r for r in metrics if r.get("reward") is not None and r.get("reward_std") is not None]
    if not both:
        return []
    mean, deviation = series(both, "reward"), series(both, "reward_std")
    pairs = list(zip(mean, deviation, strict=True))
    low = [(step, m - d) for (step, m), (_, d) in pairs]
    high = [(step, m + d) for (step, m), (_, d) in pairs]
    return [Band(f"{run} ± deviation".strip(), low, high, shade, 0.12)]


def _time(runs: Sequence[SavedRun]) -> Panel:
    if len(runs) > 1:
        return _panel(Chart("seconds", "seconds per step", {"step": "seconds.step"}), runs)
    metrics = [r for r in thin(runs[0].trained)[0] if r.get("seconds")]
    seconds = [r.get("seconds", {}) for r in metrics]
    below: Series = [(r["step"], 0.0) for r in metrics]
    bands = []
    for i, phase in enumerate((*PHASES, "other")):
        if phase == "other":
            above: Series = [
                (r["step"], own.get("step") or 0.0) for r, own in zip(metrics, seconds, strict=True)
            ]
        else:
            above = [
                (step, base + (own.get(phase) or 0.0))
                for (step, base), own in zip(below, seconds, strict=True)
            ]
        bands.append(Band(phase, below, above, colour(i), 0.45))
        below = above
    title = "seconds per step, by phase; reward: grading that the rollout did not hide"
    return Panel("seconds", title, [Line("step", below, "#8a8a8a", width=1)], bands)
