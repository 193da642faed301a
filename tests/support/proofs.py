"""A proof of the sync between a trainer and an engine that may lose a weight."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling, sample_groups
from drpo_cli.settings import LoraSettings, ModelSettings
from drpo_cli.step.proof import Look, Proof
from drpo_cli.step.sync import WeightSync
from drpo_cli.trainer.lora import PREFIX
from drpo_cli.types import Group, Prompt
from support.models import tokenizer
from support.training import open_trainer

PROMPTS = ("12+34=", "7*8=", "the sum of 1", "(2-3)/4=")
SAMPLING = Sampling(samples=4, max_new_tokens=16, temperature=1.0, seed=1)


class LosingEngine(transformers.Engine):
    """An engine that loses one weight."""

    lost = ""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        super().load_weights(
            (name, own[name].clone() if name == self.lost else weight) for name, weight in weights
        )


class AdapterEngine(LosingEngine):
    """An engine with a slot for an adapter, from which `lost` may keep a part.

    lost  the end of a name that keeps its value of the start; "scaling"; or "later", for all after
          the first
    """

    takes_adapters = True
    scaling = 2.0

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        super().load_weights(weights)
        self.base = {name: weight.clone() for name, weight in self.model.named_parameters()}
        self.start: dict[str, Tensor] = {}

    def load_adapter(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        found = dict(weights)
        if self.start and self.lost == "later":
            return
        for name, weight in found.items():
            other = torch.zeros_like(weight) if "lora_B" in name else weight.roll(1)
            self.start.setdefault(name, other)
        if self.lost:
            found |= {name: self.start[name] for name in found if name.endswith(self.lost)}
        scaling = self.scaling * (2 if self.lost == "scaling" else 1)
        own = dict(self.model.named_parameters())
        for name, a in found.items():
            if name.endswith("lora_A.weight"):
                b = found[name.replace("lora_A", "lora_B")]
                target = name.removeprefix(PREFIX).replace("lora_A.", "")
                own[target].data.copy_(self.base[target].float() + scaling * (b @ a).float())


class Watched(Proof):
    """A proof that keeps what each look measured."""

    def __init__(self, sync: WeightSync):
        super().__init__(sync)
        self.looks: list[Look] = []

    def _look(self, *given: Any, **named: Any) -> Look:
        self.looks.append(super()._look(*given, **named))
        return self.looks[-1]


def opened(
    folder: Path,
    here: Any,
    precision: Precision,
    lost: str = "",
    kind: type[LosingEngine] = LosingEngine,
    lora: LoraSettings | None = None,
) -> Watched:
    """The proof of a model folder, and an engine to which `lost` does not arrive."""
    model = ModelSettings(path=str(folder), dtype=precision.rollout)  # type: ignore[arg-type]
    engine = kind(transformers.Config(), EngineContext(model, 64, here.size))
    engine.lost = lost
    train: dict[str, Any] = {"dtype": precision.train, "float8": precision.float8}
    trainer = open_trainer(folder, here, learning_rate=1e-2, lora=lora, **train)
    return Watched(WeightSync(trainer, engine, precision))


def prompts() -> list[Prompt]:
    """Prompts for the tiny models."""
    return [Prompt(text, text, tuple(tokenizer()(text).input_ids), None, {}) for text in PROMPTS]


def sampled(proof: Proof) -> list[Group]:
    """Responses of the engine as it is now."""
    return sample_groups(proof.engine, prompts(), SAMPLING)
