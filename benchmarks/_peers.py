"""Runs the same work on our side and on TRL's alternately, each in its own environment."""

from __future__ import annotations

import json
import math
import os
import random
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import _peer_wire as wire
from benchmarks import _trl_env
from benchmarks._bench import Measured
from benchmarks._peer_wire import Phase, Work
from benchmarks._trainers import Shape, make_model
from drpo_cli.dist import KEEP_MEMORY

MODEL = Shape(
    vocabulary=320,
    hidden=256,
    intermediate=768,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=64,
    context=wire.CONTEXT,
)  # 3.2 M parameters
PAUSE = 0.5  # seconds in which one side's idle threads fall asleep before the other computes

SPEC = """\
[run]
name = "bench"
steps = 1000000
[model]
path = "model"
dtype = "float32"
[[data]]
type = "jsonl"
path = "prompts.jsonl"
[rollout]
prompts_per_step = {prompts}
samples_per_prompt = {samples}
max_new_tokens = {longest}
context_length = {context}
[[reward]]
type = "./reward.py"
[advantage]
type = "group_norm"
epsilon = 1e-4
[objective]
type = "ppo_clip"
epsilon_low = {epsilon}
epsilon_high = {epsilon}
[train]
updates_per_rollout = 1
learning_rate = {rate}
weight_decay = {decay}
max_gradient_norm = {norm}
[eval]
every = 0
problems = 4
[[eval.data]]
type = "jsonl"
path = "held_out.jsonl"
[checkpoint]
every = 0
"""
REWARD = '''\
"""The share of even token ids."""

from benchmarks._peer_wire import even_share

INLINE = True


def reward(tokens):
    return even_share(tokens)
'''


def log_uniform(rng: random.Random, low: int, high: int) -> int:
    """Draws a whole number whose logarithm is uniform between those of the bounds."""
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def against_trl(
    phase: Phase,
    shape: tuple[int, int],
    lengths: Callable[[random.Random], tuple[int, int]],
    microbatch: int,
    pairs: int,
) -> Measured:
    """Measures our speed ÷ TRL's, one figure per pair.

    The notes have both sides' seconds, versions and settings. `shape` is prompts × responses to
    each; `lengths` draws the tokens of a prompt and a response.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drpo-bench-")))
        work = _prepare(folder, phase, shape, lengths, microbatch)
        trl = Worker(_trl_env.install(), "benchmarks._peer_trl", folder, without=KEEP_MEMORY)
        stack.callback(trl.close)
        ours = Worker(Path(sys.executable), "benchmarks._peer_ours", folder)
        stack.callback(ours.close)
        seen = [(ours.measure(), trl.measure()) for _ in range(pairs + 1)][1:]  # the first warms up
        ratios = tuple(_speed(a) / _speed(b) for a, b in seen)
        return Measured((ratios,), _notes(work, seen, ours, trl))


class Worker:
    """A long-lived process that makes one measurement per request."""

    def __init__(self, python: Path, module: str, folder: Path, without: Collection[str] = ()):
        """Starts the process and waits until it is ready; `without` names variables that it lacks.

        Raises RuntimeError with its log if it dies.
        """
        self.log = folder / f"{module}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, "-m", module, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=_trl_env.ROOT,
                env={
                    **{k: v for k, v in os.environ.items() if k not in without},
                    "PYTHONPATH": str(_trl_env.ROOT),
                },
            )
        self.notes: dict[str, Any] = self._answer()["notes"]

    def measure(self) -> dict[str, Any]:
        """Makes one measurement: `seconds`, trained `tokens`, `parts`."""
        time.sleep(PAUSE)
        assert self.process.stdin is not None
        self.process.stdin.write("once\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise RuntimeError(f"worker ended with code {code}\n{self.log.read_text()[-8000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _speed(seen: dict[str, Any]) -> float:
    """Trained tokens per second. Both have the same samples, so ratios are those of samples/s."""
    return float(seen["tokens"] / seen["seconds"])


def _prepare(
    folder: Path,
    phase: Phase,
    shape: tuple[int, int],
    lengths: Callable[[random.Random], tuple[int, int]],
    microbatch: int,
) -> Work:
    """Writes model, prompts, spec and the work itself, as files that both workers read."""
    rng = random.Random(0)
    drawn_PG = [[lengths(rng) for _ in range(shape[1])] for _ in range(shape[0])]
    prompts_P = [_text(rng, drawn_G[0][0]) for drawn_G in drawn_PG]
    lengths_PG = [[response for _, response in drawn_G] for drawn_G in drawn_PG]
    work = Work(str(folder / "model"), phase, prompts_P, lengths_PG, microbatch)
    work.save(folder)
    make_model(folder / "model", MODEL)
    _write_rows(folder / "prompts.jsonl", prompts_P)
    _write_rows(folder / "held_out.jsonl", [_text(rng, 15) for _ in range(4)])
    (folder / "reward.py").write_text(REWARD)
    (folder / "run.toml").write_text(
        SPEC.format(
            prompts=shape[0],
            samples=shape[1],
            longest=max(map(max, lengths_PG)),
            context=wire.CONTEXT,
            epsilon=wire.EPSILON,
            rate=wire.LEARNING_RATE,
            decay=wire.WEIGHT_DECAY,
            norm=wire.CLIP_NORM,
        )
    )
    return work


def _text(rng: random.Random, tokens: int) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=tokens))


def _write_rows(path: Path, prompts: Sequence[str]) -> None:
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))


def _notes(
    work: Work, seen: Sequence[tuple[dict[str, Any], dict[str, Any]]], ours: Worker, trl: Worker
) -> dict[str, Any]:
    def side(worker: Worker, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            **worker.notes,
            "seconds": [answer["seconds"] for answer in answers],
            "parts": [answer["parts"] for answer in answers],
            "tokens_per_second": [_speed(answer) for answer in answers],
            "samples_per_second": [work.samples / answer["seconds"] for answer in answers],
        }

    return {
        "samples": work.samples,
        "prompt_tokens": sum(
            len(p) * len(n) for p, n in zip(work.prompts_P, work.lengths_PG, strict=True)
        ),
        "response_tokens": work.tokens,
        "trained_tokens": {"ours": seen[0][0]["tokens"], "trl": seen[0][1]["tokens"]},
        "ours": side(ours, [a for a, _ in seen]),
        "trl": side(trl, [b for _, b in seen]),
    }
