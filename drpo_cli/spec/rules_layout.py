"""Rules over how sequences become micro-batches: what the model's layers allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drpo_cli.architecture import ASKED, choose, why_padded
from drpo_cli.spec.model import Spec
from drpo_cli.spec.problems import Problem


def layout_fits(spec: Spec, config: Mapping[str, Any] | None) -> Iterator[Problem]:
    """The model, by its config.json, can be packed if it should be; padded rows have no kernel."""
    layout, why = spec.train.layout, None if config is None else why_padded(config)
    if layout == "packed" and why:
        yield Problem(
            ("train", "layout"),
            f"is 'packed', but not for this model: {why}, so that the sequences of a packed row "
            f"would not be kept apart; remove it, or set it to 'padded'",
            also=(("model", "path"),),
        )
    elif choose(layout, config).padded and spec.train.attention is not None:
        because = ASKED if layout == "padded" else why
        yield Problem(
            ("train", "attention"),
            f"has no effect on padded rows, which have the attention of the model ({because}); "
            f"remove it",
            also=(("train", "layout"),) if layout == "padded" else (("model", "path"),),
            on_key=True,
        )
