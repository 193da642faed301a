"""A proof of the sync between a trainer and an engine that may lose a weight."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling, sample_groups
from drpo_cli.settings import ModelSettings
from drpo_cli.step.proof import Look, Proof
from drpo_cli.step.sync import WeightSync
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
) -> Watched:
    """The proof of a model folder, and an engine to which `lost` does not arrive."""
    model = ModelSettings(path=str(folder), dtype=precision.rollout)  # type: ignore[arg-type]
    engine = kind(transformers.Config(), EngineContext(model, 64, here.size))
    engine.lost = lost
    train: dict[str, Any] = {"dtype": precision.train, "float8": precision.float8}
    trainer = open_trainer(folder, here, learning_rate=1e-2, **train)
    return Watched(WeightSync(trainer, engine, precision))


def prompts() -> list[Prompt]:
    """Prompts for the tiny models."""
    return [Prompt(text, text, tuple(tokenizer()(text).input_ids), None, {}) for text in PROMPTS]


def sampled(proof: Proof) -> list[Group]:
    """Responses of the engine as it is now."""
    return sample_groups(proof.engine, prompts(), SAMPLING)
