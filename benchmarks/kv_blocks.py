"""`python -m benchmarks.kv_blocks`: rollouts with vLLM's own KV blocks on a CPU ÷ with ours.

16 prompts × 8 responses of 32 tokens from row 1's model, with prompts of 50, 200 and 500 tokens.
Only whole blocks of a prompt are shared by its responses. Each side is an engine in a process of
its own, and the processes take turns: a round is both sides, each the median of five rollouts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from benchmarks._bench import seconds
from benchmarks._peers import MODEL
from benchmarks._trainers import make_model, random_rows
from drpo_cli.dist import cores, environment
from drpo_cli.rollout.engine.capacity import CPU_BLOCK

LENGTHS = (50, 200, 500)
OWN = 128
"""What vLLM takes on a CPU if nothing is said."""
ROUNDS = 3
ROLLOUTS = 5


def measure(block: int) -> list[float]:
    """The seconds of a rollout for each length of prompts."""
    from drpo_cli.rollout import vllm
    from drpo_cli.rollout.engine.protocol import EngineContext, Sampling, sample_groups
    from drpo_cli.settings import ModelSettings
    from drpo_cli.types import Prompt

    sampling, found = Sampling(samples=8, max_new_tokens=32, temperature=1.0, seed=0), []
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(vllm, "CPU_BLOCK", block):
        model = ModelSettings(path=str(make_model(Path(folder) / "model", MODEL)), dtype="float32")
        engine = vllm.Engine(vllm.Config(), EngineContext(model, MODEL.context, 1))
        for length in LENGTHS:
            drawn = random_rows([(length, 1)] * 16, 1, MODEL.vocabulary).prompt_ids_S
            prompts = [Prompt(str(i), "", ids, None, {}) for i, ids in enumerate(drawn)]
            taken = [
                seconds(lambda prompts=prompts: sample_groups(engine, prompts, sampling))
                for _ in range(ROLLOUTS + 1)
            ]
            found.append(statistics.median(taken[1:]))  # the first one warms up
        engine.close()
    return found


def main() -> None:
    """Prints a line for each length of prompts."""
    rounds = []
    for _ in range(ROUNDS):
        pair = []
        for block in (OWN, CPU_BLOCK):
            command = [sys.executable, "-m", "benchmarks.kv_blocks", str(block)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            pair.append(json.loads(done.stdout.splitlines()[-1]))
        rounds.append([own / ours for own, ours in zip(*pair, strict=True)])
    for length, found in zip(LENGTHS, zip(*rounds, strict=True), strict=True):
        spread = f"{statistics.median(found):.2f} [{min(found):.2f}, {max(found):.2f}]"
        sys.stdout.write(f"| {length} tokens | {spread} |\n")


if __name__ == "__main__":
    if missing := environment(cores()).items() - os.environ.items():
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, **dict(missing)})
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(measure(int(sys.argv[1]))) + "\n")
    else:
        main()
