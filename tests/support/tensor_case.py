"""Engines of two ranks each, in processes of their own: `python -m support.tensor_case FOLDER`.

Four ranks have two engines over two ranks each, and a fifth process has one alone. Prints what each
found as one line of JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from drpo_cli import plugins
from drpo_cli.dist import World
from drpo_cli.rollout import vllm
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling, sample_groups
from drpo_cli.settings import ModelSettings, TrainSettings
from drpo_cli.step.proof import Proof
from drpo_cli.step.sync import WeightSync
from drpo_cli.trainer import optim
from drpo_cli.trainer.loading import load_policy
from drpo_cli.trainer.trainer import Objective, Trainer
from drpo_cli.types import Group, Prompt
from support.feeds import Talks, starts
from support.models import experience, free_port, samples, tokenizer, world

RANKS = 4
PROMPTS = ("12+34=", "7*8=", "the sum of 1", "(2-3)/4=", "9-9=")
SHARES = ((0, 1), (2,), (), (3, 4))  # by rank: one has a prompt less, and one has none


def main(folder: Path) -> list[dict[str, Any]]:
    """What the four ranks found, then what the engine alone did."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.tensor_case", "vllm", "vllm.v1.worker.cpu_worker"])
    port, answers = free_port(), context.SimpleQueue()
    processes = [
        context.Process(target=_serve, args=(answers, rank, size, at, folder))
        for rank, size, at in [*((rank, RANKS, port) for rank in range(RANKS)), (0, 1, None)]
    ]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return sorted(found, key=lambda answer: (-answer["size"], answer["rank"]))


def _serve(answers: Any, rank: int, size: int, port: int | None, folder: Path) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {"rank": rank, "size": size}
    try:
        with world(rank, size, port) as here:
            found |= _find(here, folder)
    except BaseException:
        found["error"] = traceback.format_exc()
    answers.put(found)
    os._exit(0)  # an engine's threads must not turn it into a crash


def _find(here: World, folder: Path) -> dict[str, Any]:
    """Samples; proves the sync, takes a step of training, pushes, and samples again."""
    prompts = [Prompt(text, text, tuple(tokenizer()(text).input_ids), None, {}) for text in PROMPTS]
    own = range(len(PROMPTS)) if here.size == 1 else SHARES[here.rank]
    mine, shared = [prompts[i] for i in own], here.size > 1
    model = ModelSettings(path=str(folder), dtype="float32")
    # a copy of the weights on each rank, so that an engine takes its parts from two copies
    trainer = _open_trainer(model, here.in_shards(1))
    config = vllm.Config(tensor_parallel=2 if shared else 1, max_new_tokens=16)
    engine = vllm.Engine(config, EngineContext(model, 96, here.size, awaits_weights=True))
    pushed = WeightSync(trainer, engine, Precision(model.dtype, model.dtype))
    proof = Proof(pushed)
    sampling = Sampling(samples=3, max_new_tokens=16, temperature=0.8, seed=1)
    proof.prove(0, prompts, Sampling(1, 16, 0.8, seed=here.rank))  # each rank has its own seed
    before = sample_groups(engine, mine, sampling)
    trainer.step(experience(samples([(4, 8)] * 4)))
    stale = proof.gap(sample_groups(engine, mine, sampling))
    pushed.push(1)
    after = sample_groups(engine, mine, sampling)
    found = {"stale": stale, "fresh": proof.gap(after), "before": _dump(before)}
    found["talks"] = [_talk(engine, rank) for rank in _served(here)]
    engine.close()
    return found


def _served(here: World) -> range:
    """The ranks whose conversations this one holds: its own, or all if it has an engine alone."""
    return range(RANKS) if here.size == 1 else range(here.rank, here.rank + 1)


def _talk(engine: vllm.Engine, rank: int) -> list[Any]:
    """The turns of a rank's conversations, whose environments have a pace of their own."""
    talks = Talks(starts(len(SHARES[rank])), 3, lambda talk, turn: (3 * rank + turn) % 5, seed=rank)
    said = talks.hold(engine)
    return [(key, ids, one.token_ids, one.logps) for key, (ids, one) in sorted(said.items())]


def _open_trainer(model: ModelSettings, here: World) -> Trainer:
    settings = TrainSettings(updates_per_rollout=1, learning_rate=1e-2)
    plugin = plugins.load("objectives", "none")
    objective = Objective(plugin.entry, plugin.Config())
    policy = load_policy(model, 0.8, 64, None, here)
    return Trainer(policy, optim.build(policy, settings, 2), objective, settings, here)


def _dump(groups: list[Group]) -> dict[str, list[Any]]:
    """Tokens and log μ of each rollout, by the prompt."""
    return {
        group.prompt.id: [(rollout.token_ids, rollout.logps) for rollout in group.rollouts_G]
        for group in groups
    }


if __name__ == "__main__":
    result = main(Path(sys.argv[1]))
    sys.stdout.write("\n" + json.dumps(result) + "\n")
