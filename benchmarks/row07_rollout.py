"""Our rollout ÷ a bare `LLM.generate` of the same requests, with log-probs.

Ours is what the phase `rollout` runs: `sample_groups` over `Engine.generate`, one request per
sample, up to complete groups of `Rollout`s (ids, log μ, text). Bare is one call of `LLM.generate`
on the same `LLM` object, one request per prompt with `n` samples and the log-probs of the sampled
tokens. Its result is not read. Every training step must take ids and log-probs out of it: that time
is in the notes as `drain_seconds`, and only our side includes it.

Both sides sample at temperature 1 from the whole distribution and start with an empty prefix cache.
The tokenizer has no end-of-sequence token, so every response has the same length. The model is
small: the less the engine has to do, the more our overhead counts.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig

from benchmarks._bench import Goal, Measured, Size, ratios, seconds, time_pairs
from benchmarks._peers import MODEL
from benchmarks._trainers import Shape, make_model, random_rows
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling, sample_groups
from drpo_cli.rollout.vllm import Config, Engine
from drpo_cli.settings import ModelSettings
from drpo_cli.types import Group, Prompt

GOALS = (
    Goal("rollout ÷ LLM.generate, 16 → 32 tokens", 1.05, at_most=True),
    Goal("rollout ÷ LLM.generate, 512 → 64 tokens", 1.05, at_most=True),
)
LENGTHS = ((16, 32), (512, 64))  # (prompt, response)
PROMPTS: dict[Size, int] = {"full": 32, "smoke": 4}
PAIRS: dict[Size, int] = {"full": 7, "smoke": 2}
SAMPLES = 8


def measure(size: Size) -> Measured:
    """Measures as the module's docstring says."""
    with tempfile.TemporaryDirectory() as folder:
        engine = _open(Path(folder) / "model", MODEL, PROMPTS[size])
        found = [_of_lengths(engine, *lengths, size) for lengths in LENGTHS]
        engine.close()
    figures = tuple(figure for figure, _ in found)
    return Measured(figures, {"work": [note for _, note in found], "parameters": "3.2 M"})


def _open(folder: Path, shape: Shape, prompts: int) -> Engine:
    _never_end(make_model(folder, shape))
    model = ModelSettings(path=str(folder), dtype="float32")
    config = Config(
        prompts_per_step=prompts, samples_per_prompt=SAMPLES, max_new_tokens=LENGTHS[-1][1]
    )
    return Engine(config, EngineContext(model, shape.context, ranks=1))


def _never_end(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    GenerationConfig(pad_token_id=0, bos_token_id=1).save_pretrained(folder)


def _of_lengths(
    engine: Engine, prompt: int, response: int, size: Size
) -> tuple[tuple[float, ...], dict[str, Any]]:
    prompts_P = _prompts(PROMPTS[size], prompt)
    sampling = Sampling(samples=SAMPLES, max_new_tokens=response, temperature=1.0, seed=0)

    def ours() -> list[Group]:
        return sample_groups(engine, prompts_P, sampling)

    def bare() -> list[Any]:
        return _bare(engine.llm, prompts_P, sampling)

    taken = time_pairs(ours, bare, PAIRS[size])
    tokens = len(prompts_P) * SAMPLES * response
    _require_all(ours(), bare(), tokens)
    outputs = bare()
    return ratios(taken), {
        "prompt_tokens": prompt,
        "response_tokens": response,
        "samples": len(prompts_P) * SAMPLES,
        "seconds_ours_bare": taken,
        "tokens_per_second_ours": [tokens / ours for ours, _ in taken],
        "drain_seconds": seconds(lambda: _drain(outputs)),
    }


def _prompts(count: int, tokens: int) -> list[Prompt]:
    batch = random_rows([(tokens, 1)] * count, 1, MODEL.vocabulary)
    return [Prompt(str(i), "", ids, None, {}) for i, ids in enumerate(batch.prompt_ids_S)]


def _bare(llm: Any, prompts_P: list[Prompt], sampling: Sampling) -> list[Any]:
    from vllm import SamplingParams

    params = SamplingParams(
        n=sampling.samples,
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        logprobs=0,
    )
    # Ours left these prompts in the cache; in a run the next prompts are new.
    llm.reset_prefix_cache()
    prompts = [{"prompt_token_ids": list(prompt.token_ids)} for prompt in prompts_P]
    outputs: list[Any] = llm.generate(prompts, params, use_tqdm=False)
    return outputs


def _drain(outputs: list[Any]) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Takes ids and log-probs of every sample out of the outputs."""
    drained = []
    for sample in [sample for output in outputs for sample in output.outputs]:
        ids = tuple(sample.token_ids)
        places = zip(sample.logprobs, ids, strict=True)
        drained.append((ids, tuple(place[token].logprob for place, token in places)))
    return drained


def _require_all(groups_P: list[Group], outputs: list[Any], tokens: int) -> None:
    ours = sum(len(rollout.logps) for group in groups_P for rollout in group.rollouts_G)
    theirs = sum(len(logps) for _, logps in _drain(outputs))
    if (ours, theirs) != (tokens, tokens):
        raise RuntimeError(
            f"{tokens} tokens were requested; ours gave {ours}, LLM.generate {theirs}"
        )
