"""What our worker and TRL's share: the work, the pipe to the bench, and lengths in vLLM.

Both environments import this file, so it uses only the standard library.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

WORK = "work.json"
CONTEXT = 1024  # tokens; holds the longest prompt and the longest response
BYTES = range(3, 259)  # the token ids of bytes in the model's vocabulary
Phase = Literal["training", "step"]

LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM, EPSILON = 1e-6, 0.01, 1.0, 0.2


@dataclass(frozen=True)
class Work:
    """One step's work, the same for both sides.

    model         folder of the model and its tokenizer, one token per character
    phase         what is timed: the training phase, on fixed responses, or the whole step
    prompts_P     texts
    lengths_PG    tokens of each response
    microbatch    TRL's `per_device_train_batch_size`, samples
    """

    model: str
    phase: Phase
    prompts_P: list[str]
    lengths_PG: list[list[int]]
    microbatch: int

    @property
    def samples(self) -> int:
        """The number of responses in a step."""
        return sum(len(lengths_G) for lengths_G in self.lengths_PG)

    @property
    def tokens(self) -> int:
        """The response tokens of a step: the tokens that have a loss."""
        return sum(map(sum, self.lengths_PG))

    def responses(self) -> list[list[list[int]]]:
        """Token ids of each response, [P][G]: random, the same on every call."""
        rng = random.Random(0)
        return [
            [rng.choices(BYTES, k=length) for length in lengths_G] for lengths_G in self.lengths_PG
        ]

    def save(self, folder: Path) -> None:
        """Writes the work to the folder, for `load`."""
        (folder / WORK).write_text(json.dumps(asdict(self)))


def load(folder: Path) -> Work:
    """Reads the work that was saved in a folder."""
    return Work(**json.loads((folder / WORK).read_text()))


def even_share(tokens: Sequence[int]) -> float:
    """The reward of both sides: the share of even token ids, which is fast to compute."""
    return sum(token % 2 == 0 for token in tokens) / len(tokens)


def meet_nowhere() -> None:
    """Sets a free port for a process group of one: other processes may use the usual port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}


class Pipe:
    """A worker's end of the pipe: waits for a command, answers with one JSON line."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # output of libraries goes to the log

    def wait(self) -> None:
        """Waits for the next request to measure; ends the process when the pipe is closed."""
        if not sys.stdin.readline():
            os._exit(0)  # does not wait for the engine's threads

    def answer(self, **what: Any) -> None:
        """Sends one answer; the first one says that the worker is ready."""
        self._answers.write(json.dumps(what) + "\n")
        self._answers.flush()


def give_lengths(engine: Any, work: Work, ids_PT: Sequence[Sequence[int]]) -> None:
    """Makes a vLLM engine give each response to the work's prompts its own length, ignoring EOS.

    Each request for a prompt takes the next of the prompt's lengths.
    """
    turns = {
        tuple(ids_T): itertools.cycle(lengths_G)
        for ids_T, lengths_G in zip(ids_PT, work.lengths_PG, strict=True)
    }
    add_request = engine.add_request

    def add(request_id: str, prompt: Any, params: Any, *rest: Any, **named: Any) -> Any:
        lengths = turns.get(tuple(prompt["prompt_token_ids"]))
        if lengths is not None:
            params = params.clone()
            params.max_tokens, params.ignore_eos = next(lengths), True
        return add_request(request_id, prompt, params, *rest, **named)

    engine.add_request = add
