"""Tokens/s of episodes whose environment takes 0.2 s per turn ÷ of one that answers at once.

64 episodes of 4 turns, played as the phase `rollout` plays them: a real engine, environments in
their worker processes, prefix caching on. While an environment sleeps, the turns of other episodes
are sampled; what is not hidden is the time in which too few are left to sample, above all at the
end of the batch. Both sides play the same prompts with the same seeds, and their tokens per second
count what the policy sampled.

A turn ends at one of a few end tokens of a model with random weights, so lengths are about
geometric, as ragged as they get, with a mean of 64 tokens (at most 256); with shorter turns less of
the 0.2 s can be hidden, which the second figure shows (mean 16, at most 64). The third is the first
with rounds (`rollout.in_rounds`), which must wait for the slowest environment of each turn.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks._bench import Goal, Measured, Size, seconds
from benchmarks._peers import MODEL
from benchmarks._trainers import make_model
from drpo_cli import plugins
from drpo_cli.plugins import Selected
from drpo_cli.rollout.engine.ends import find_ends
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.rollout.vllm import Config, Engine
from drpo_cli.settings import ModelSettings
from drpo_cli.step.play import Player
from drpo_cli.types import Group, Prompt

GOALS = (
    Goal("0.2 s per turn ÷ none: tokens/s, turns of 64 tokens", 0.90, at_most=False),
    Goal("the same, turns of 16 tokens", 0.75, at_most=False),
    Goal("the same as the first, in rounds", 0.80, at_most=False),
)
PAUSE_S = 0.2
TURNS = 4
ENDS = {64: 4, 16: 19}  # mean tokens of a turn: end tokens beside the tokenizer's, of 320
EPISODES: dict[Size, int] = {"full": 64, "smoke": 4}
PAIRS: dict[Size, int] = {"full": 3, "smoke": 1}
FIRST_END = 40  # printable bytes


def measure(size: Size) -> Measured:
    """Measures as the module's docstring says."""
    with tempfile.TemporaryDirectory() as folder:
        model = ModelSettings(path=str(make_model(Path(folder) / "model", MODEL)), dtype="float32")
        long, short = (_of_length(model, mean, size) for mean in ENDS)
    figures = (long["ratios"], short["ratios"], long["ratios_in_rounds"])
    notes = {"turns_of_64": long, "turns_of_16": short, "parameters": "3.2 M"}
    return Measured(figures, notes)


def _of_length(model: ModelSettings, mean: int, size: Size) -> dict[str, Any]:
    config = Config(
        prompts_per_step=EPISODES[size] // 4,
        samples_per_prompt=4,
        max_new_tokens=4 * mean,
        stop_token_ids=tuple(range(FIRST_END, FIRST_END + ENDS[mean])),
    )
    engine = Engine(config, EngineContext(model, MODEL.context, ranks=1))
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    ends = find_ends(config, model, tokenizer).ids
    found: dict[str, Any] = {}
    for key, in_rounds in (("", False), ("_in_rounds", True)):
        pairs = []
        with Player(_environments(), tokenizer, ends, MODEL.context, in_rounds) as player:
            for _ in range(PAIRS[size] + 1):  # the first is a warm-up
                pairs.append([_play(engine, player, pause, size, mean) for pause in (True, False)])
        pairs = pairs[1:]
        found[f"ratios{key}"] = tuple(slow[0] / fast[0] for slow, fast in pairs)
        found[f"tokens_per_second_sleeping_at_once{key}"] = [
            [side[0] for side in pair] for pair in pairs
        ]
        found[f"tokens_sleeping_at_once{key}"] = [[side[1] for side in pair] for pair in pairs]
        found[f"seconds_sleeping_at_once{key}"] = [[side[2] for side in pair] for pair in pairs]
        found[f"seconds_without_a_request_sleeping{key}"] = [pair[0][3] for pair in pairs]
        found[f"processor_seconds_sleeping_at_once{key}"] = [
            [side[4] for side in pair] for pair in pairs
        ]
    engine.close()
    return found


def _environments() -> list[Selected[Any]]:
    type = plugins.absolute("./_sleeping.py:Sleeping", Path(__file__).parent)
    settings = plugins.load("environments", type).Config
    return [
        Selected("environments", type, settings(name=name, pause_s=pause, turns=TURNS, workers=1))
        for name, pause in (("sleeping", PAUSE_S), ("at_once", 0.0))
    ]


def _play(
    engine: Engine, player: Player, pause: bool, size: Size, mean: int
) -> tuple[float, int, float, float, float]:
    """Tokens/s, tokens, seconds, those in which the engine had no request, and processor seconds.

    On a busy machine, the last two say what the pause costs: seconds are the others' as well.
    """
    prompts = [_prompt(i, "sleeping" if pause else "at_once") for i in range(EPISODES[size] // 4)]
    sampling = Sampling(samples=4, max_new_tokens=4 * mean, temperature=1.0, seed=0)
    groups: list[Group] = []
    before, processor = player.waited_s, time.process_time()
    taken = seconds(lambda: groups.extend(player.play(engine, prompts, sampling)))
    tokens = _count(groups)
    processor = time.process_time() - processor
    return tokens / taken, tokens, taken, player.waited_s - before, processor


def _prompt(number: int, environment: str) -> Prompt:
    text = f"Tell me story {number:03d}. "
    ids = tuple(ord(letter) % 256 + 3 for letter in text)
    return Prompt(
        str(number),
        text,
        ids,
        None,
        {},
        messages=({"role": "user", "content": text},),
        environment=environment,
    )


def _count(groups: Sequence[Group]) -> int:
    """The tokens that the policy sampled. Raises where an episode did not run through."""
    rollouts = [rollout for group in groups for rollout in group.rollouts_G]
    ended = {rollout.episode.end if rollout.episode else None for rollout in rollouts}
    if ended != {"done"}:
        raise RuntimeError(f"episodes ended by {ended}")
    return sum(rollout.sampled_tokens for rollout in rollouts)
