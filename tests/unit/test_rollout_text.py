"""The text of a response is the one that vLLM builds token by token, and costs one decoding."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from drpo_cli.rollout.engine.ends import Ends
from drpo_cli.rollout.engine.protocol import Sampling
from drpo_cli.rollout.engine.text import decode_response
from drpo_cli.rollout.engine.vllm_requests import read_output, sampling_options
from support.models import tokenizer as characters

vllm = pytest.importorskip("vllm")

WORDS = ("the", "a", "un", "do", "2", "12", "=", ".", ",", "\n", "é", "你", "🙂", "n't")
SPECIAL = [AddedToken(text, special=True) for text in ("<s>", "</s>", "<think>")]


def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen: bytes as characters, a space is part of the next token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    parts = [text for word in WORDS for text in (word, f" {word}")]
    pieces = [pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(p) for p in parts]
    tokens = dict.fromkeys([*letters, *("".join(p for p, _ in piece) for piece in pieces)])
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def sentencepiece() -> Tokenizer:
    """As Llama 2, Mistral and Gemma: `▁` is a space, unknown characters are single bytes."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁▁"]
    tokens += [text for word in WORDS for text in (word, f"▁{word}")]
    known = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    inner = Tokenizer(models.BPE(known, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return inner


def pieces() -> Tokenizer:
    """As BERT: words are joined by spaces, `##` continues one."""
    tokens = ["[UNK]", *(text for word in WORDS for text in (word, f"##{word}"))]
    known = {token: i for i, token in enumerate(tokens)}
    inner = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece(cleanup=False)
    return inner


def metaspace() -> Tokenizer:
    """As T5 and newer Llama conversions."""
    tokens = ["<unk>", "▁", *(text for word in WORDS for text in (word, f"▁{word}"))]
    known = {token: i for i, token in enumerate(tokens)}
    inner = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    inner.decoder = decoders.Metaspace()
    return inner


TOKENIZERS = {make.__name__: make for make in (byte_level, sentencepiece, pieces, metaspace)}


def wrapped(inner: Tokenizer) -> PreTrainedTokenizerFast:
    inner.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


def incremental(tokenizer: Any, prompt_ids: list[int], ids: list[int]) -> str:
    """The text that vLLM's own detokenizer gives."""
    from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

    params = vllm.SamplingParams()
    request = SimpleNamespace(
        sampling_params=params, prompt_token_ids=prompt_ids, request_id="0", prompt_embeds=None
    )
    decoder = FastIncrementalDetokenizer(tokenizer, request)
    decoder.update(ids, stop_terminated=False)
    text: str = decoder.get_next_output_text(finished=True, delta=False)
    return text


@pytest.mark.parametrize("kind", [*TOKENIZERS, "characters"])
def test_the_text_is_vllms_to_the_byte(kind: str) -> None:
    tokenizer = characters() if kind == "characters" else wrapped(TOKENIZERS[kind]())
    rng, spaced, special = random.Random(0), 0, sorted(tokenizer.all_special_ids)
    single = [[i] for i in range(len(tokenizer)) if "�" not in tokenizer.decode(i)]
    of_bytes = [tokenizer(text, add_special_tokens=False).input_ids for text in ("ß", "☃", "🦉")]

    def some(count: int) -> list[int]:
        units = (rng.choice(of_bytes if rng.random() < 0.2 else single) for _ in range(count))
        return [token for unit in units for token in unit]

    for _ in range(500):
        prompt, ids = some(rng.choice((1, 3, 30))), some(rng.randrange(12))
        if rng.random() < 0.3:
            prompt += [rng.choice(special)] * rng.choice((1, 20))
        text = decode_response(tokenizer, prompt, ids)
        assert text == incremental(tokenizer, prompt, ids), (prompt, ids)
        spaced += text.startswith(" ")
    assert spaced


def test_a_character_that_is_cut_short_shows() -> None:
    """vLLM leaves such an end out, together with the letters that came with it."""
    tokenizer = wrapped(byte_level())
    smile = tokenizer.convert_tokens_to_ids(list("ðŁĻĤ"))
    prompt, a = [0], tokenizer.convert_tokens_to_ids("a")
    assert decode_response(tokenizer, prompt, [a, *smile]) == "a🙂"
    assert decode_response(tokenizer, prompt, [a, *smile[:3]]) == "a�"
    assert incremental(tokenizer, prompt, [a, *smile[:3]]) == "a"
    assert decode_response(tokenizer, prompt, [*smile[:3], a]) == "�a"


@pytest.mark.parametrize("texts", [(), ("qq",)])
def test_vllm_decodes_only_where_it_searches_a_text(
    texts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts what vLLM's output processor does for 8 responses of 50 tokens, as we ask for them."""
    from vllm.logprobs import Logprob
    from vllm.v1.engine import (
        EngineCoreOutput,
        EngineCoreRequest,
        FinishReason,
        detokenizer,
        output_processor,
    )
    from vllm.v1.engine import logprobs as lp
    from vllm.v1.outputs import LogprobsLists

    counts = {"decoded": 0, "looked up": 0, "objects": 0}

    def counted(key: str, function: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            counts[key] += 1
            return function(*args, **more)

        return call

    fast = detokenizer.FastIncrementalDetokenizer
    monkeypatch.setattr(fast, "decode_next", counted("decoded", fast.decode_next))
    monkeypatch.setattr(
        lp, "convert_ids_list_to_tokens", counted("looked up", lp.convert_ids_list_to_tokens)
    )
    monkeypatch.setattr(Logprob, "__init__", counted("objects", Logprob.__init__))

    tokenizer = characters()
    options = sampling_options(Sampling(1, 50, 1.0, 0), Ends(frozenset({2}), texts))
    processor = output_processor.OutputProcessor(tokenizer, log_stats=False)
    for i in range(8):
        request = EngineCoreRequest(
            request_id=str(i),
            external_req_id=str(i),
            prompt_token_ids=[5, 6],
            mm_features=None,
            sampling_params=vllm.SamplingParams(**options, seed=i, max_tokens=50),
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        processor.add_request(request, None)
    done: list[Any] = []
    for t in range(50):
        outputs = [
            EngineCoreOutput(
                request_id=str(i),
                new_token_ids=[4 + (i + t) % 40],
                new_logprobs=LogprobsLists(
                    np.array([[4 + (i + t) % 40]]), np.array([[-0.5 - t]]), np.array([3])
                ),
                finish_reason=FinishReason.LENGTH if t == 49 else None,
            )
            for i in range(8)
        ]
        done += processor.process_outputs(outputs).request_outputs
    rollouts = [read_output(tokenizer, [5, 6], one) for one in done]
    tokens = 8 * 50 if texts else 0
    assert counts == {"decoded": tokens, "looked up": tokens, "objects": 0}
    assert [rollout.logps for rollout in rollouts] == [tuple(-0.5 - t for t in range(50))] * 8
    expected = [tuple(4 + (i + t) % 40 for t in range(50)) for i in range(8)]
    assert [rollout.token_ids for rollout in rollouts] == expected
    assert [rollout.text for rollout in rollouts] == [
        "".join(tokenizer.convert_ids_to_tokens(list(ids))) for ids in expected
    ]
