"""A server that answers completions as vLLM does, with the log-probs of a tiny model."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.servers import Answer, Asked, Reply


def answering(folder: Path, model: str = "tiny", longest: int = 1024) -> Answer:
    """Answers with the `prompt_logprobs` of the model in a folder, which it serves as `model`.

    longest  what vLLM calls max_model_len: of a row, and the token that is sampled after it
    """
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(folder)
    lock = threading.Lock()

    def answer(asked: Asked) -> Reply:
        body = asked.body
        assert asked.path.endswith("/completions") and body["prompt_logprobs"] == 0, asked
        if body["model"] != model:
            return Reply(
                {"error": {"message": f"The model `{body['model']}` does not exist."}}, 404
            )
        ids = body["prompt"]
        if len(ids) + body["max_tokens"] > longest:
            text = f"This model's maximum context length is {longest} tokens."
            return Reply({"error": {"message": text}}, 400)
        with lock, torch.no_grad():
            logp_TV = lm(torch.tensor([ids])).logits[0].log_softmax(-1)
        given: list[dict[str, Any] | None] = [None]
        for place, id in enumerate(ids[1:]):
            found = float(logp_TV[place, id])
            rank = int((logp_TV[place] > found).sum()) + 1
            text = tokens.decode([id])
            given.append({str(id): {"logprob": found, "rank": rank, "decoded_token": text}})
        return completion(given)

    return answer


def completion(given: Any) -> Reply:
    """A completion with these `prompt_logprobs`."""
    choice = {"index": 0, "text": "x", "logprobs": None, "finish_reason": "length"}
    choice |= {"stop_reason": None, "prompt_logprobs": given}
    body = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": "tiny"}
    return Reply(body | {"choices": [choice], "usage": {"prompt_tokens": 1}})
