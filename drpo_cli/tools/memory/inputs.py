"""What the passes are measured on: a model's shapes, and the largest micro-batch of the settings.

This is the one file of `drpo plan` that uses the trainer's own samples and packing.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli

from drpo_cli.architecture import Rows
from drpo_cli.errors import UserError
from drpo_cli.experience import Experience
from drpo_cli.settings import ModelSettings
from drpo_cli.trainer.decoder import find_decoder, find_layers
from drpo_cli.trainer.layout import Layout
from drpo_cli.trainer.pack import Packed, pack
from drpo_cli.trainer.packable import choose_layout
from drpo_cli.trainer.sharing import ALWAYS
from drpo_cli.types import Group, Prompt, Rollout

SHAPES = Path(__file__).with_name("shapes.toml")

if TYPE_CHECKING:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode


def load_config(settings: ModelSettings, key: str) -> Any:
    """The model's configuration: from its folder, the hub's cache, our table, or the hub.

    Raises UserError, naming `key`, where it does not load.
    """
    from transformers import AutoConfig

    known = known_shapes().get(settings.path)
    there = Path(settings.path).exists()
    if known is not None and not there and not _is_cached(settings.path):
        return AutoConfig.for_model(**known)
    try:
        return AutoConfig.from_pretrained(
            settings.path, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"{key}: {settings.path} has no configuration that loads ({why})",
            f"name a folder with the model's config.json, or download it: hf download "
            f"{settings.path} config.json",
        ) from error


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


@cache
def known_shapes() -> dict[str, dict[str, Any]]:
    """The part of the configurations of common models of the hub that memory depends on."""
    rows = tomli.loads(SHAPES.read_text(encoding="utf-8"))["shape"]
    return {name: row["config"] for row in rows for name in row["models"]}


def make_model(
    config: Any,
    code: bool,
    layers: int | None = None,
    attention: str | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """The model, with only `layers` decoder layers if that is given. Call it in a fake mode.

    `code` allows modelling code that comes with the model; `attention` is a name of
    `trainer.attention`, or None for the model's own.

    A model with several kinds of attention keeps one layer of each kind, since each kind has a
    mask of its own.
    """
    import torch

    from drpo_cli import pretrained

    lm = pretrained.make(
        copy.deepcopy(config),
        dtype=dtype or torch.float32,
        attn_implementation=attention,
        trust_remote_code=code,
    ).eval()
    if layers is not None:
        whole = find_layers(find_decoder(lm))
        for layer in reversed(range(len(whole))):
            if layer not in _choose_layers(len(whole), config, layers):
                del whole[layer]
    return lm


def find_rows(layout: str, config: Any, code: bool) -> Rows:
    """What the trainer makes of sequences for this model, by `TrainSettings.layout`.

    Remembers a model's answer: a plan with advice asks for it a dozen times, and it takes seconds.
    """
    asked = (layout, config.to_json_string(), code)
    if asked not in _ROWS:
        _ROWS[asked] = Rows.of(choose_layout(layout, config, code))
    return _ROWS[asked]


_ROWS: dict[tuple[str, str, bool], Rows] = {}


def _choose_layers(whole: int, config: Any, count: int) -> list[int]:
    kinds = getattr(config.get_text_config(), "layer_types", None) or ["all"] * whole
    firsts = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    others = [i for i in range(whole) if i not in firsts]
    return sorted([*firsts, *others][:count])


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt and of a response; `known` is false where the prompt's is assumed."""

    prompt: int
    response: int
    known: bool = True

    @property
    def total(self) -> int:
        """Tokens of prompt and response."""
        return self.prompt + self.response


@dataclass(frozen=True)
class Batch:
    """The largest micro-batch of sequences of these lengths.

    group      samples per prompt
    sequences  at most so many samples
    budget     at most so many tokens; one sequence may have more
    padded     whether they are padded rows, or packed into one
    """

    lengths: Lengths
    group: int
    sequences: int
    budget: int
    padded: bool = False

    @cached_property
    def rows(self) -> Experience:
        """Its rows; the last response is cut so that the budget is used to the token.

        The first sequence always fits, as the trainer gives a longer one a micro-batch of its own.
        """
        if self.padded:
            fit = min(self.sequences, self.budget // (self.lengths.total - 1))
            return self._make([[self.lengths.response]] * max(1, fit))
        responses_PG: list[list[int]] = []
        left, rows = self.budget, 0
        while rows < self.sequences:
            left -= 0 if rows % self.group else self.lengths.prompt
            # the last token of a response is never an input
            response = min(self.lengths.response, left + 1) if rows else self.lengths.response
            if rows and response < 2:
                break
            if rows % self.group == 0:
                responses_PG.append([])
            responses_PG[-1].append(response)
            left -= response - 1
            rows += 1
        return self._make(responses_PG)

    def _make(self, responses_PG: list[list[int]]) -> Experience:
        groups_P = [
            _make_group(prompt, self.lengths.prompt, responses_G)
            for prompt, responses_G in enumerate(responses_PG)
        ]
        exp = Experience.of(groups_P)
        return dataclasses.replace(exp, advantage_T=exp.advantage_T + 1)

    @cached_property
    def packed(self) -> Packed:
        """The micro-batch as the trainer packs it, of real tensors: they are small."""
        import torch

        costs = dataclasses.replace(ALWAYS, padded=self.padded)
        return pack(self.rows, torch.device("cpu"), costs=costs)

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return len(self.packed.input_ids_I)

    @property
    def shares_prompts(self) -> bool:
        """Whether samples share a prompt, so that attention needs a mask."""
        layout = self.packed.layout
        return layout is not None and any(span.seen for span in layout.spans)

    def make_fake(self, mode: FakeTensorMode) -> Packed:
        """The packed micro-batch with fake tensors in place of real ones."""
        import torch

        def fake(value: Any) -> Any:
            return mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

        real = self.packed
        columns = {
            field.name: fake(getattr(real, field.name))
            for field in dataclasses.fields(real)
            if field.name != "layout"
        }
        layout = real.layout
        return Packed(**columns, layout=layout and Layout(layout.spans, layout.device))


def _make_group(number: int, prompt: int, responses_G: Sequence[int]) -> Group:
    rollouts = (Rollout((0,) * tokens, (0.0,) * tokens, "", False) for tokens in responses_G)
    prompt_ids = (number, *([0] * (prompt - 1)))
    return Group(Prompt(str(number), "", prompt_ids, None, {}), tuple(rollouts))
