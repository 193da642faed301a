"""What ranks are asked to do: each is called on every rank, and alone for comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from drpo_cli import plugins
from drpo_cli.dist import World, copies, local
from drpo_cli.errors import UserError
from drpo_cli.experience import Experience
from drpo_cli.rewards.grading.grader import Graded, Usage
from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.feed import Feed
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.rollout.engine.requests import Key
from drpo_cli.settings import CriticSettings, ModelSettings
from drpo_cli.step.advantage import with_advantages
from drpo_cli.step.checkpoint import Checkpoints
from drpo_cli.step.distillation import with_teacher
from drpo_cli.step.proof import Proof
from drpo_cli.step.sample import Draws
from drpo_cli.step.sync import WeightSync, trainer_weights
from drpo_cli.tools.memory.tracker import find_gradients
from drpo_cli.trainer.critic import whiten
from drpo_cli.trainer.model import Policy
from drpo_cli.trainer.pack import Packed
from drpo_cli.trainer.stats import TokenStats
from drpo_cli.types import Group, Prompt, Rollout, Scores
from support.feeds import Talks, starts
from support.models import Row, experience, samples, tokenizer
from support.proofs import SAMPLING, opened, prompts
from support.training import (
    STEADY,
    caught_gradients,
    critic_state,
    flat,
    groups_of,
    moments,
    open_trainer,
    weights,
)


def in_mesh(here: World, shard: int, work: Callable[..., Any], **arguments: Any) -> Any:
    """A job on a mesh in which `shard` neighbouring ranks share one copy of the weights."""
    return work(here.in_shards(shard), **arguments)


def refusal(here: World, model: Path) -> str:
    """The message with which a trainer refuses a model."""
    try:
        open_trainer(model, here)
    except UserError as error:
        return str(error)
    return "not refused"


@dataclass(frozen=True)
class Trained:
    """What some training steps left behind, whole tensors."""

    gradients: list[dict[str, Tensor]]
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    metrics: list[dict[str, float]]
    critic: dict[str, Tensor]


def train(
    here: World,
    model: Path,
    shares: Sequence[Sequence[Sequence[Row]]],
    load: Path | None = None,
    save: Path | None = None,
    **settings: Any,
) -> Trained:
    """Takes a step for each of `shares`, on this rank's share of it: `shares[step][rank]`."""
    trainer = open_trainer(model, here, options={"delta": 0.1}, **{"epsilon": STEADY, **settings})
    if load is not None:
        Checkpoints(load.parent, 3, here).load(load, trainer)
    with caught_gradients(trainer) as gradients:
        metrics = [
            flat(trainer.step(with_teacher(experience(share[here.rank]), trainer)))
            for share in shares
        ]
    if save is not None:
        store = Checkpoints(save.parent, 3, here)
        written = store.save(int(save.name[-6:]), trainer, tokenizer(), {"dtype": "float32"})
        assert written == save
    trainer.close()
    return Trained(
        gradients, weights(trainer.policy), moments(trainer), metrics, critic_state(trainer)
    )


def kept_gradients(
    here: World, model: Path, share: Sequence[Sequence[Row]], **settings: Any
) -> tuple[list[int], int]:
    """Values of gradients that this rank keeps after each backward pass; the model's weights."""
    trainer, kept = open_trainer(model, here, **settings), []
    backward = trainer._backward

    def counted(packed: Packed, stats: TokenStats) -> float:
        loss = backward(packed, stats)
        kept.append(_count_gradients(trainer.policy))
        return loss

    trainer._backward = counted  # type: ignore[method-assign]
    trainer.step(experience(share[here.rank]))
    return kept, sum(weight.numel() for weight in trainer.policy.parameters())


def _count_gradients(policy: Policy) -> int:
    """Values in the gradients of shards, and in those of whole weights, which FSDP keeps apart."""
    return sum(local(gradient).numel() for gradient in find_gradients(policy))


def replay(here: World, model: Path, share: Sequence[Sequence[Row]], **settings: Any) -> Tensor:
    """log π of this rank's share."""
    return open_trainer(model, here, **settings).replay(experience(share[here.rank]))


def reduce(here: World) -> dict[str, Any]:
    """Every reduction, on values that tell the ranks apart."""
    rank = here.rank
    return {
        "place": (here.rank, here.size),
        "sum": here.sum([rank + 1, 0.1, 2.0**53]),
        "max": here.max([rank, -rank, float("-inf")]),
        "nan": here.sum([float("nan") if rank else 1.0]),
        "gather": here.gather(torch.arange(3.0 * rank) + 10 * rank).tolist(),
        "exchange": here.exchange([(rank, other) for other in range(here.size)]),
        "objects": here.gather_objects({"rank": rank}),
    }


def streamed(here: World, model: Path, rollout: str) -> dict[str, Tensor]:
    """What a push sends, by name."""
    trainer = open_trainer(model, here)
    stream = trainer_weights(trainer.policy, Precision("float32", rollout), here)
    return {name: weight.clone() for name, weight in stream}


@dataclass(frozen=True)
class Proven:
    """What a proof of a sync came to on one rank."""

    refusal: str
    floor: float
    place: tuple[int, ...]
    copies: int
    staleness: dict[str, float]


def prove(here: World, model: Path, rounding: str | None, lost: str = "") -> Proven:
    """Proves a sync; each rank samples with a seed of its own, as in a run."""
    proof, refusal = opened(model, here, Precision("float32", "float32", rounding), lost), ""
    try:
        proof.prove(0, prompts(), replace(SAMPLING, seed=here.rank))
    except UserError as error:
        refusal = str(error)
    place, count = copies(next(proof.trainer.policy.parameters()))
    return Proven(refusal, proof.floor, place, count, dict(proof.looks[0].staleness))


def in_eight_bits(here: World, model: Path, recipe: str | None) -> Tensor:
    """log π of some rows by a policy that computes in FP8, with its weights over all ranks."""
    import support.eight_bits  # noqa: F401

    rows = samples([(3, 9), (6, 2), (4, 7)])
    return replay(here, model, [rows] * here.size, dtype="bfloat16", float8=recipe)


def gathered(here: World, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Tensors of these shapes, counted through, from this rank's rows of them."""
    shards = []
    for shape in shapes:
        whole = torch.arange(math.prod(shape)).view(shape)
        rows = -(-shape[0] // here.size)
        shards.append(whole[here.rank * rows : (here.rank + 1) * rows])
    return here.gather_rows(shards, [torch.Size(shape) for shape in shapes])


def keep(here: World, model: Path, folder: Path, scores: dict[int, float]) -> list[str]:
    """Saves a checkpoint for each step; what this rank then sees in the folder."""
    trainer, store = open_trainer(model, here), Checkpoints(folder, 2, here)
    for step, score in scores.items():
        store.save(step, trainer, tokenizer(), {"dtype": "float32", "score": score})
    return sorted(path.name for path in folder.iterdir())


def load_refused(here: World, model: Path, checkpoint: Path) -> str:
    """What this rank is told when a checkpoint is not of its model."""
    try:
        Checkpoints(checkpoint.parent, 3, here).load(checkpoint, open_trainer(model, here))
    except UserError as error:
        return str(error)
    return "loaded"


Totals = Sequence[Sequence[float | None]]
"""The totals of a rank's groups, `[prompt][sample]`; None for a sample that is skipped."""


def scored_groups(totals: Totals, seed: int) -> tuple[list[Group], list[Scores]]:
    """Random groups with these totals."""
    groups_P, scores_P = groups_of([[t or 0.0 for t in row] for row in totals], seed)
    skipped_P = [frozenset(i for i, t in enumerate(row) if t is None) for row in totals]
    return groups_P, [
        replace(scores, skipped=skipped)
        for scores, skipped in zip(scores_P, skipped_P, strict=True)
    ]


def drawn(
    here: World, scores: Sequence[Sequence[Totals]], further_rounds: int, threshold: float = 1.0
) -> dict[str, Any]:
    """Dynamic sampling of groups with these scores: `scores[rank][round][prompt][sample]`."""
    draws = Draws(further_rounds, here)
    while draws.wanted():
        round_ = draws.rounds
        groups_P, scores_P = scored_groups(scores[here.rank][round_], seed=round_)
        usage = {"reward": Usage(calls=len(groups_P), slowest=float(round_))}
        draws.add(groups_P, Graded(scores_P, [{} for _ in groups_P], usage, []))
    groups_P, scores_P = draws.chosen()
    return {
        "ids": [group.prompt.id for group in groups_P],
        "scores": [score.total_G for score in scores_P],
        "drawn": [group.prompt.id for group, _ in draws.drawn],
        "usage": draws.usage,
        "rounds": draws.rounds,
        "pass_rates": draws.pass_rates(threshold),
        **draws.metrics(),
    }


def advantages(here: World, advantage: str, scores: Sequence[Totals]) -> list[list[float]]:
    """The advantages of this rank's responses, from its scores: `scores[rank][prompt][sample]`."""
    config = plugins.load("advantages", advantage).Config()
    exp = Experience.of(*scored_groups(scores[here.rank], seed=here.rank))
    chosen = plugins.Selected("advantages", advantage, config)
    found = with_advantages(exp, chosen, None, here)
    return [adv_T.tolist() for adv_T in found.split(found.advantage_T)]


def judged(
    here: World, model: Path, share: Sequence[Sequence[Row]], **settings: Any
) -> dict[str, Any]:
    """What a critic makes of this rank's share, before and after an update on it."""
    exp = experience(share[here.rank])
    critic = open_trainer(model, here, critic=CriticSettings(learning_rate=1e-2), **settings).critic
    assert critic is not None
    return {
        "losses": [critic.update(exp), critic.update(exp)],
        "values": critic.values(exp).tolist(),
        "explained": critic.explained_variance(exp),
        "whitened": whiten(exp.advantage_T, here).tolist(),
    }


def rehearsed(here: World, model: Path) -> list[dict[str, Tensor]]:
    """The weights of each push of a proof, in order, as this rank's engine got them.

    Each rank samples a prompt of its own, the second half of the ranks none, with its own seed.
    """
    engine = RecordingEngine(model)
    trainer = open_trainer(model, here)
    proof = Proof(WeightSync(trainer, engine, Precision("float32", "float32")))
    prompt = Prompt(f"{here.rank}", "", tuple(range(5, 9 + here.rank)), None, {})
    sampling = Sampling(samples=2, max_new_tokens=8, temperature=1.0, seed=here.rank)
    proof.prove(0, [prompt] if here.rank < here.size // 2 else [], sampling)
    return engine.loaded


class RecordingEngine(transformers.Engine):
    """The transformers engine, which keeps a copy of whatever it loads."""

    def __init__(self, model: Path) -> None:
        settings = ModelSettings(path=str(model), dtype="float32")
        super().__init__(transformers.Config(), EngineContext(settings, 64, 1))
        self.loaded: list[dict[str, Tensor]] = []

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        kept = {name: weight.clone() for name, weight in weights}
        self.loaded.append(kept)
        super().load_weights(kept.items())


def asked(here: World, size: int, in_rounds: bool) -> tuple[list[list[Key]], list[list[Key]]]:
    """What each `size` neighbours ask their engine for in front of every step; what came here.

    This rank has `rank % 3` conversations, and the environments of each rank a pace of their own.
    Every response takes as many steps as its request has tokens beyond 10.
    """
    firsts = range(0, here.size, size)
    groups = [dist.new_group(range(first, first + size)) for first in firsts]
    talks = Talks(
        starts(here.rank % 3), 3, lambda talk, turn: (here.rank + talk + turn) % 4, in_rounds
    )
    feed, steps = Feed(talks, groups[here.rank // size]), list[list[Key]]()
    left: dict[Key, int] = {}
    while left or not feed.ended:
        come = feed.take(busy=bool(left))
        left |= {request.key: request.max_new_tokens - 10 for request in come}
        steps.append([request.key for request in come])
        for key in [key for key, count in left.items() if count <= 0]:
            del left[key]
            if (own := feed.answered(key)) is not None:
                talks.answer(own, Rollout((5,), (-1.0,), "", truncated=True))
        left = {key: count - 1 for key, count in left.items()}
    return steps, talks.taken


def timeouts(here: World) -> list[float]:
    """Seconds after which collectives of this rank's mesh fail, along each dimension."""
    backends = [group._get_backend(here.device) for group in here.mesh.get_all_groups()]
    return [backend.options._timeout.total_seconds() for backend in backends]
