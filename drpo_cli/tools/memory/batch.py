"""The fullest micro-batch that a run's settings allow: what the activations are counted on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drpo_cli.trainer.pack import Packed, Sample, pack

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode


@dataclass(frozen=True)
class Lengths:
    """What sequences are made of, in tokens; `known` unless the prompt's length was assumed."""

    prompt: int
    response: int
    known: bool = True

    @property
    def total(self) -> int:
        """Tokens of prompt and response."""
        return self.prompt + self.response


def fullest(lengths: Lengths, group: int, sequences: int, budget: int) -> list[Sample]:
    """Samples of the longest kind, `group` to a prompt, up to `budget` tokens or `sequences`.

    The last response is cut so that the budget is full to the token. One sequence always fits, as
    the trainer gives a longer one a micro-batch of its own.
    """
    samples: list[Sample] = []
    left = budget
    while len(samples) < sequences:
        place = len(samples) // group
        left -= 0 if len(samples) % group else lengths.prompt
        # a response's last token is never an input
        response = min(lengths.response, left + 1) if samples else lengths.response
        if response < 2 and samples:
            break
        samples.append(_sample(place, lengths.prompt, response))
        left -= response - 1
    return samples


def _sample(place: int, prompt: int, response: int) -> Sample:
    return Sample(
        prompt_ids=(place, *([0] * (prompt - 1))),
        response_ids=(0,) * response,
        old_logps=(0.0,) * response,
        advantages=(1.0,) * response,
    )


def packed(samples: Sequence[Sample]) -> Packed:
    """The micro-batch of these samples, as the trainer packs it; small, and real."""
    import torch

    return pack(samples, torch.device("cpu"), [1.0] * len(samples))


def imitated(real: Packed, mode: FakeTensorMode) -> Packed:
    """The micro-batch with fake tensors in place of real ones."""
    import torch

    def fake(value: Any) -> Any:
        return mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

    layout = dataclasses.replace(
        real.layout,
        buckets=tuple(
            dataclasses.replace(bucket, first_B=fake(bucket.first_B))
            for bucket in real.layout.buckets
        ),
        query_N=fake(real.layout.query_N),
        key_M=fake(real.layout.key_M),
        inverse_T=fake(real.layout.inverse_T),
        _masks={},
    )
    columns = {
        field.name: fake(getattr(real, field.name))
        for field in dataclasses.fields(real)
        if field.name != "layout"
    }
    return Packed(**columns, layout=layout)
