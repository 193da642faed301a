"""Makes models with random weights, samples for them, and a trainer as a run makes it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from drpo_cli.dist import World
    from drpo_cli.experience import Experience
    from drpo_cli.trainer.trainer import Trainer

DType = Literal["float32", "bfloat16"]
SPREAD = 0.02  # standard deviation of every weight matrix
LEARNING_RATE = 1e-6


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen3 whose head is tied to the embedding."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int = 8192

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of the weight matrices of one layer, by name."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q": (queries, self.hidden),
            "k": (keys, self.hidden),
            "v": (keys, self.hidden),
            "o": (self.hidden, queries),
            "gate": (self.intermediate, self.hidden),
            "up": (self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }

    @property
    def layer_weights(self) -> int:
        """The number of weights in the matrices of one layer."""
        return sum(outputs * inputs for outputs, inputs in self.matrices.values())

    @property
    def head_weights(self) -> int:
        """The number of weights of the head, which is the embedding."""
        return self.vocabulary * self.hidden


def make_model(folder: Path, shape: Shape) -> Path:
    """Writes a random Qwen3 of this shape, and the byte tokenizer; returns `folder`."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from drpo_cli.tools import tiny

    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context,
        initializer_range=SPREAD,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def open_trainer(
    folder: Path, world: World, dtype: DType = "float32", rank: int = 0, **train: Any
) -> Trainer:
    """Opens a trainer for a model folder; `train` are keys of `[train]`.

    With a `rank` it trains adapters of this rank alone.
    One update per step unless `train` says otherwise; all else has the defaults of a spec.
    """
    from drpo_cli import plugins
    from drpo_cli.devices import resolve
    from drpo_cli.settings import LoraSettings, ModelSettings, TrainSettings
    from drpo_cli.trainer import optim
    from drpo_cli.trainer.attention import name_for
    from drpo_cli.trainer.loading import load_policy
    from drpo_cli.trainer.trainer import Objective, Trainer

    given = {"updates_per_rollout": 1, "learning_rate": LEARNING_RATE, **train}
    settings = resolve(TrainSettings(**given), world.device.type, dtype)
    policy = load_policy(
        ModelSettings(path=str(folder), dtype=dtype),
        1.0,
        settings.logits_in_a_block,
        settings.checkpointing,
        world,
        name_for(str(settings.attention), world.device.type),
        LoraSettings(rank=rank) if rank else None,
        layout=settings.layout,
        head_dtype=settings.head_dtype,
    )
    plugin = plugins.load("objectives", "drpo")
    objective = Objective(plugin.entry, plugin.Config())
    return Trainer(policy, optim.build(policy, settings, 10_000), objective, settings, world)


def random_rows(prompts: Sequence[tuple[int, int]], response: int, vocabulary: int) -> Experience:
    """For each (prompt tokens, group size) a group of responses of `response` random tokens."""
    from drpo_cli.experience import Experience
    from drpo_cli.types import Group, Prompt, Rollout

    rng = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, vocabulary) for _ in range(count))

    def rollout() -> Rollout:
        return Rollout(ids(response), (0.0,) * response, "", False)

    groups = [
        Group(Prompt(str(i), "", ids(tokens), None, {}), tuple(rollout() for _ in range(size)))
        for i, (tokens, size) in enumerate(prompts)
    ]
    exp = Experience.of(groups)
    sign_S = exp.score_S.new_tensor([rng.choice((-1.0, 1.0)) for _ in range(len(exp))])
    return replace(exp, advantage_T=exp.repeat(sign_S))


def apart(exp: Experience) -> Experience:
    """The rows with another first prompt token each, so that they share no prompt."""
    prompts = enumerate(exp.prompt_ids_S)
    return replace(exp, prompt_ids_S=tuple((i, *ids[1:]) for i, ids in prompts))


def cut(exp: Experience, lengths: Sequence[int]) -> Experience:
    """The rows with the first so many tokens of their responses."""
    import torch

    length_S = torch.tensor(lengths)
    place_T = torch.arange(len(exp.token_T)) - exp.repeat(exp.offsets[:-1])
    kept_T = place_T < exp.repeat(length_S)
    columns = {
        field.name: getattr(exp, field.name)[kept_T]
        for field in fields(exp)
        if field.name.endswith("_T") and getattr(exp, field.name) is not None
    }
    return replace(exp, offsets=torch.nn.functional.pad(length_S.cumsum(0), (1, 0)), **columns)


def input_lengths(exp: Experience) -> list[int]:
    """The tokens of each row that go through the model when it shares no prompt."""
    responses = (exp.lengths_S - 1).tolist()
    return [len(p) + r for p, r in zip(exp.prompt_ids_S, responses, strict=True)]


def on_policy(trainer: Trainer, exp: Experience) -> Experience:
    """The rows with the log-probs that the trainer's own weights give them, as an engine would.

    Random ones would put every token outside the trust region, where there is nothing to learn.
    """
    return replace(exp, logp_mu_T=trainer.replay(exp).double())


def step(trainer: Trainer, exp: Experience) -> None:
    """A training phase; RuntimeError if it did not do all of its work."""
    metrics = trainer.step(exp)
    tokens = len(exp.token_T)
    if metrics["skipped_updates"] or trainer.world.sum([tokens])[0] != metrics["trained_tokens"]:
        raise RuntimeError(f"an update was skipped, or tokens were: {metrics}")
