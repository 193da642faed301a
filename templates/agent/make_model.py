"""Makes the model of the guessing game: a small Qwen3 that can play, but does not play well.

`python make_model.py FOLDER` makes a tokenizer with a token per digit and word, and a model of
under 1 M parameters. The model learns by supervised learning from games of a poor player: three in
ten of his guesses are any number, and the others any number that the hints still allow.
"""

import random
import sys
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

SEED = 0
LIMIT, QUESTIONS = 16, 4  # as in environments.py
PROMPT = f"guess 1-{LIMIT}\n"
BLIND = 0.3  # share of guesses that take no account of the hints
BATCH = 128
STEPS = 300
WARM_UP = 50
PEAK_RATE = 2e-3
SPECIAL = ["<pad>", "<eos>"]
WORDS = ["guess", "higher", "lower", "number", " ", "-", "?", "\n"]


def main(folder: Path) -> None:
    """Makes and trains the model, and writes the folder in one move."""
    disable_progress_bar()
    random.seed(SEED)
    torch.manual_seed(SEED)
    tokenizer, model = make_tokenizer(), make_model()
    learn_from_games(model, tokenizer)
    partial = folder.with_name(folder.name + ".partial")
    tokenizer.save_pretrained(partial)
    model.save_pretrained(partial)
    partial.rename(folder)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Makes a tokenizer with one token per digit, word and sign."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *"0123456789", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z]+|[^a-z]"), "isolated")
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def make_model() -> Qwen3ForCausalLM:
    """Makes the untrained model: under 1 M parameters, embeddings tied."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=32,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
            dtype="float32",
        )
    )


def play_poorly() -> list[tuple[str, str]]:
    """Plays a game: pairs of what the player reads and what he writes."""
    secret, low, high = random.randint(1, LIMIT), 1, LIMIT
    turns, read = [], PROMPT
    for _ in range(QUESTIONS):
        blind = random.random() < BLIND
        guess = random.randint(1, LIMIT) if blind else random.randint(low, high)
        turns.append((read, f"{guess}<eos>"))
        if guess == secret:
            break
        read = "higher\n" if guess < secret else "lower\n"
        low, high = (max(low, guess + 1), high) if guess < secret else (low, min(high, guess - 1))
    return turns


def learn_from_games(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Trains on what the player writes; what he reads has no loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, total_iters=WARM_UP)
    for step in range(1, STEPS + 1):
        ids, mask = make_batch(tokenizer)
        logp = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        loss = -logp.gather(-1, ids[:, 1:, None])[..., 0][mask[:, 1:]].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"warm start: step {step}, loss {loss.item():.3f} nats per token")


def make_batch(tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of games, right-padded, and which of them the player wrote, [games, tokens]."""
    rows, masks = [], []
    for _ in range(BATCH):
        row: list[int] = []
        mask: list[bool] = []
        for turn in play_poorly():
            for text, written in zip(turn, (False, True), strict=True):
                ids = tokenizer(text).input_ids
                row += ids
                mask += [written] * len(ids)
        rows.append(row)
        masks.append(mask)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([mask + [False] * (longest - len(mask)) for mask in masks])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
