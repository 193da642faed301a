"""Makes the quickstart's model: a small Qwen3 that can almost add, as a Hugging Face folder.

`python make_model.py FOLDER` makes a character tokenizer and a model of under 1 M parameters, and
trains the model by supervised learning on training problems only. A number at the end of the
folder's name is its seed: `model-1` is another model than `model`. The same seed gives the same
model on the same machine; another kind of CPU or another torch rounds differently, and its model
scores a few points more or less.
"""

import random
import re
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from drpo_cli.data.pipeline.split import split
from drpo_cli.spec import load

BATCH = 128
WARM_UP = 200
PEAK_RATE = 2e-3
START_RATE = 0.3  # stop when this share of sampled answers to training problems is right
MOST_STEPS = 1000
SPECIAL = ["<pad>", "<bos>", "<eos>"]


def main(folder: Path) -> None:
    """Makes and trains the model, and writes the folder in one move."""
    disable_progress_bar()
    seed = int("0" + re.sub(r".*\D", "", folder.name))
    random.seed(seed)
    torch.manual_seed(seed)
    spec = load(Path(__file__).parent / "run.toml")
    problems = split(spec.data, spec.eval_data, spec.eval.problems).train
    tokenizer, model = make_tokenizer(), make_model()
    warm_start(model, tokenizer, [(p.prompt, p.answer) for p in problems])
    partial = folder.with_name(folder.name + ".partial")
    tokenizer.save_pretrained(partial)
    model.save_pretrained(partial)
    partial.rename(folder)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Makes a tokenizer with one token per character."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *"0123456789+="])}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def make_model() -> Qwen3ForCausalLM:
    """Makes the untrained model: under 1 M parameters, embeddings tied."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=16,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            dtype="float32",
        )
    )


def warm_start(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: list[tuple[str, str]]
) -> None:
    """Trains on the answers until the model is right often enough for RL to improve it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, total_iters=WARM_UP)
    for step in range(1, MOST_STEPS + 1):
        answer_logp(model, tokenizer, random.sample(problems, BATCH)).mean().neg().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            with torch.no_grad():
                logp = answer_logp(model, tokenizer, random.sample(problems, 4 * BATCH))
            rate = logp.sum(1).exp().mean().item()
            if step % 50 == 0 or rate >= START_RATE:
                print(f"warm start: step {step}, right {rate:.0%} of the time")
            if rate >= START_RATE:
                return


def answer_logp(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: list[tuple[str, str]]
) -> torch.Tensor:
    """Returns the log-probability of each token of each answer, [problems, tokens]."""
    ids = torch.tensor(
        tokenizer([prompt + answer + "<eos>" for prompt, answer in problems]).input_ids
    )
    start = len(problems[0][0])  # all prompts have the same length
    logp = model(input_ids=ids).logits[:, start - 1 : -1].log_softmax(-1)
    return logp.gather(-1, ids[:, start:, None])[..., 0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
