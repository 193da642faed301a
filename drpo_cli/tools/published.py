"""Shows what models scored on a suite beside what others published, and how each was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from drpo_cli.evaluate import compare
from drpo_cli.evaluate.metrics import Estimate, Evaluation
from drpo_cli.rollout.engine.protocol import Sampling
from drpo_cli.step.evaluate import eval_sampling
from drpo_cli.suites import Suite


def render(suite: Suite, found: Mapping[str, Evaluation]) -> Group:
    """The table of all targets, how they were measured, and the published scores."""
    about = suite.about
    parts: list[Any] = [
        Text(f"{about.title} ({about.source}; licence: {about.licence})", style="bold"),
        compare.render(found),
        Text(f"Here: {describe_settings(suite, found)}"),
    ]
    if about.published:
        parts.append(_published_table(suite, found))
    return Group(*parts)


def as_dict(suite: Suite, found: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Plain JSON values: those of `compare.as_dict`, what the suite is, and the settings here."""
    return {
        **compare.as_dict(found),
        "suite": suite.about.model_dump(mode="json"),
        "settings": describe_settings(suite, found),
    }


def describe_settings(suite: Suite, found: Mapping[str, Evaluation]) -> str:
    """How the scores here came about, in the order in which papers tell it."""
    sampling = eval_sampling(suite.spec)
    ks = sorted({result.k for result in found.values()})
    scored = len(next(iter(found.values())).problems)
    return ", ".join(
        [
            f"avg@{' and '.join(map(str, ks))} of {scored:,} problems",
            *([f"of {suite.about.problems:,}"] if scored < suite.about.problems else []),
            *_describe_choice(sampling),
            f"{sampling.max_new_tokens:,} tokens",
        ]
    )


def _describe_choice(sampling: Sampling) -> list[str]:
    """How a token is chosen."""
    if sampling.top_k == 1:
        return ["greedy"]
    return [
        f"temperature {sampling.temperature:g}",
        *([f"top-p {sampling.top_p:g}"] if sampling.top_p < 1 else []),
        *([f"top-k {sampling.top_k}"] if sampling.top_k else []),
    ]


def find_ours(model: str, found: Mapping[str, Evaluation]) -> Estimate | None:
    """The score of the target whose path names a published model."""
    name = model.split("/")[-1].lower()
    for target, result in found.items():
        if name in target.lower():  # also inside the hub's cache: models--OWNER--NAME/snapshots/…
            return result.summary[f"avg@{result.k}"]
    return None


def _published_table(suite: Suite, found: Mapping[str, Evaluation]) -> Table:
    table = Table(
        title="Published scores, %; prompt and token budget explain most differences",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("model", overflow="fold")
    table.add_column("published", justify="right")
    table.add_column("here", justify="right")
    table.add_column("measured as", overflow="fold")
    table.add_column("source", overflow="fold")
    for row in suite.about.published:
        ours = find_ours(row.model, found)
        here = "" if ours is None else f"{100 * ours.value:.1f}"
        cells = (row.model, f"{row.score:.1f}", here, row.settings, row.source)
        table.add_row(*map(Text, cells))
    return table
