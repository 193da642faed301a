"""The fullest micro-batch that a run's settings allow: what the activations are counted on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drpo_cli.experience import Experience
from drpo_cli.trainer.pack import Packed, pack
from drpo_cli.types import Group, Prompt, Rollout

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


def fullest(lengths: Lengths, group: int, sequences: int, budget: int) -> Experience:
    """Rows of the longest kind, `group` to a prompt, up to `budget` tokens or `sequences`.

    The last response is cut so that the budget is full to the token. One sequence always fits, as
    the trainer gives a longer one a micro-batch of its own.
    """
    responses_PG: list[list[int]] = []
    left, rows = budget, 0
    while rows < sequences:
        if rows % group == 0:
            left -= lengths.prompt
        # a response's last token is never an input
        response = min(lengths.response, left + 1) if rows else lengths.response
        if response < 2 and rows:
            break
        if rows % group == 0:
            responses_PG.append([])
        responses_PG[-1].append(response)
        left -= response - 1
        rows += 1
    groups = [
        Group(
            Prompt(str(place), "", (place, *([0] * (lengths.prompt - 1))), None, {}),
            tuple(Rollout((0,) * tokens, (0.0,) * tokens, "", False) for tokens in responses_G),
        )
        for place, responses_G in enumerate(responses_PG)
    ]
    exp = Experience.of(groups)
    return dataclasses.replace(exp, advantage_T=exp.advantage_T + 1)


def packed(exp: Experience) -> Packed:
    """The micro-batch of these rows, as the trainer packs it; small, and real."""
    import torch

    return pack(exp, torch.device("cpu"))


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
        inverse_I=fake(real.layout.inverse_I),
        _masks={},
    )
    columns = {
        field.name: fake(getattr(real, field.name))
        for field in dataclasses.fields(real)
        if field.name != "layout"
    }
    return Packed(**columns, layout=layout)
