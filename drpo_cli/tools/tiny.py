"""`python -m drpo_cli.tools.tiny FOLDER`: makes a small random chat model, to try a spec with.

The model is useless after training too; it exercises every part of a run on a CPU, without a
download. It has one token per byte, so that it can read any prompt, and a chat template of roles
and line breaks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from drpo_cli.errors import EXIT_USER_ERROR, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

SEED = 0
SPREAD = 0.08  # standard deviation of the weights: some tokens are likelier than others
CONTEXT = 8192  # tokens, which are bytes
VOCABULARY = 320  # a multiple of 64, which every engine's kernels accept
PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"
CHAT = (
    "{% for message in messages %}"
    + START
    + "{{ message.role }}\n{{ message.content }}"
    + END
    + "\n{% endfor %}{% if add_generation_prompt %}"
    + START
    + "assistant\n{% endif %}"
)


def make(folder: Path) -> None:
    """Writes the model and its tokenizer, always the same. Raises UserError if `folder` exists."""
    if folder.exists():
        raise UserError(f"{folder} exists", "name another folder, or remove it")
    partial = folder.with_name(folder.name + ".partial")
    tokenizer().save_pretrained(partial)
    model().save_pretrained(partial)
    partial.rename(folder)


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, with the markers of the chat template and some unused tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = [PAD, START, END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"<|unused{i}|>" for i in range(VOCABULARY - len(tokens))]
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=PAD, bos_token=START, eos_token=END
    )
    fast.chat_template = CHAT
    return fast


def model() -> Qwen3ForCausalLM:
    """A Qwen3 of two layers with random weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        random = Qwen3ForCausalLM(config)
        for parameter in random.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=SPREAD)
    return random


def main(arguments: list[str]) -> int:
    """Makes the folder that the one argument names; returns the exit code."""
    try:
        if len(arguments) != 1:
            raise UserError("usage: python -m drpo_cli.tools.tiny FOLDER")
        make(Path(arguments[0]))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
