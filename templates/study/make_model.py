"""Makes the study's models: small ones that half know their task, as Hugging Face folders.

`python make_model.py models/NAME-SEED` makes the model `NAME` of `RECIPES`: a tokenizer and a model
of under 1 M parameters, trained by supervised learning on training problems only. Another seed
gives another model of the same kind. The same seed gives the same model on the same machine;
another kind of CPU or another torch rounds differently, and its model scores a few points more or
less.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LinearLR
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

from drpo_cli.data.pipeline.split import split
from drpo_cli.spec import load

HERE = Path(__file__).parent
BATCH = 128
PEAK_RATE = 2e-3
WARM_UP = 200  # steps in which the learning rate rises
MEASURE_EVERY = 10
MOST_STEPS = 6000
SPECIAL = ["<pad>", "<bos>", "<eos>"]
WORD = r" ?[A-Za-z]{2,}"


class Example(NamedTuple):
    """An example for the warm start: prompt, answer, and the weight of the answer's first token."""

    prompt: str
    answer: str
    first: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """How one model is made, and when its warm start ends.

    spec        the spec whose training problems it learns
    start_rate  stop when this share of sampled answers is right, whatever their marker is
    experts     experts per layer, two of them used for each token; 0 gives a dense model
    markers     first tokens of answers, and how often each should come; empty: no marker
    """

    spec: str
    start_rate: float = 0.25
    experts: int = 0
    markers: tuple[tuple[str, float], ...] = ()


RECIPES = {
    "sums": Recipe("run.toml"),
    "sums-moe": Recipe("run.toml", experts=4),
    "rare": Recipe("rare.toml", start_rate=0.8, markers=((".", 0.99), ("*", 0.01))),
}

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "dtype": "float32",
}
WIDTH = 192  # of the feed-forward layer, or of the experts that a token uses, together


def main(folder: Path) -> None:
    """Makes and trains the model, and writes the folder in one move."""
    name, _, seed = folder.name.rpartition("-")
    if name not in RECIPES or not seed.isdecimal():
        sys.exit(f"there is no recipe for {folder.name!r}; name it NAME-SEED, NAME of {[*RECIPES]}")
    disable_progress_bar()
    torch.set_num_threads(1)  # the number of threads changes rounding, and with it the model
    random.seed(int(seed))
    torch.manual_seed(int(seed))
    recipe = RECIPES[name]
    problems = examples(recipe)
    tokenizer = make_tokenizer(problems)
    model = make_model(recipe, len(tokenizer))
    warm_start(model, tokenizer, problems, recipe)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial", dir=folder.parent) as parent:
        partial = Path(parent, folder.name)
        tokenizer.save_pretrained(partial)
        model.save_pretrained(partial)
        if not folder.exists():  # two runs may have started at once
            partial.rename(folder)


def examples(recipe: Recipe) -> list[Example]:
    """Returns the training problems of the recipe's spec, once for each marker.

    Only the marker itself has a weight: a rare marker is rare, but the answers after it are learned
    as well as after the others.
    """
    spec = load(HERE / recipe.spec)
    problems = split(spec.data, spec.eval_data, spec.eval.problems).train
    return [
        Example(str(problem.prompt), marker + str(problem.answer), weight)
        for problem in problems
        for marker, weight in recipe.markers or (("", 1.0),)
    ]


def make_tokenizer(problems: Sequence[Example]) -> PreTrainedTokenizerFast:
    """Makes a tokenizer: one token per character, and one per word that all prompts share."""
    common = set.intersection(*(set(re.findall(WORD, problem.prompt)) for problem in problems))
    characters = {c for problem in problems for c in problem.prompt + problem.answer}
    longest_first = sorted(common, key=lambda word: (-len(word), word))
    tokens = [*SPECIAL, *longest_first, *sorted(characters)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    cut = pre_tokenizers.Split(Regex("|".join([*longest_first, r"[\s\S]"])), "isolated")
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = cut
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def make_model(recipe: Recipe, vocabulary: int) -> PreTrainedModel:
    """Makes the untrained model of a recipe: under 1 M parameters, embeddings tied."""
    ids = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if not recipe.experts:
        return Qwen3ForCausalLM(Qwen3Config(**ids, **SHAPE, intermediate_size=WIDTH))
    experts = {
        "num_experts": recipe.experts,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": WIDTH // 2,
        "norm_topk_prob": True,
    }
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**ids, **SHAPE, **experts))


def warm_start(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Example],
    recipe: Recipe,
) -> None:
    """Trains on the answers until the model is right often enough for RL to improve it."""
    optimizer = AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    warm_up = LinearLR(optimizer, 0.01, 1.0, total_iters=WARM_UP)
    for step in range(1, MOST_STEPS + 1):
        logp, weight = answer_logp(model, tokenizer, random.sample(problems, BATCH))
        ((logp * weight).sum() / weight.sum()).neg().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()
        optimizer.zero_grad()
        if step % MEASURE_EVERY == 0:
            with torch.no_grad():
                logp, _ = answer_logp(model, tokenizer, random.sample(problems, 4 * BATCH))
            ways = max(1, len(recipe.markers))  # each problem is among the examples this many times
            rate = ways * logp.sum(1).exp().mean().item()
            if step % 100 == 0 or rate >= recipe.start_rate:
                print(f"warm start: step {step}, right {rate:.0%} of the time", flush=True)
            if rate >= recipe.start_rate:
                return
    sys.exit(f"the warm start did not reach {recipe.start_rate:.0%} in {MOST_STEPS} steps")


def answer_logp(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Example]
) -> tuple[Tensor, Tensor]:
    """Returns the log-probability and the weight of each token of each answer, 0 elsewhere.

    Both have the shape [problems, tokens - 1].
    """
    prompts = tokenizer([problem.prompt for problem in problems]).input_ids
    answers = tokenizer([problem.answer + "<eos>" for problem in problems]).input_ids
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.zeros(len(problems), longest, dtype=torch.long)
    weight = torch.zeros(len(problems), longest)
    for row, (p, a) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(p) + len(a)] = torch.tensor(p + a)
        weight[row, len(p) : len(p) + len(a)] = 1
        weight[row, len(p)] = problems[row].first
    logp = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    chosen = logp.gather(-1, ids[:, 1:, None])[..., 0]
    return chosen.where(weight[:, 1:] > 0, 0), weight[:, 1:]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
