"""Plain `generate` of transformers: slow, but it runs wherever torch does.

It holds its own copy of the model, so that sampling does not gather sharded weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from drpo_cli import progress
from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.ends import Ends, find_ends
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.settings import Count, RolloutSettings
from drpo_cli.types import Rollout

if TYPE_CHECKING:
    from torch import Tensor


class Config(RolloutSettings):
    """Options of the transformers engine."""

    max_sequences: Count = 128
    """Responses sampled at the same time, per rank; each keeps its logits at every token."""


class Engine:
    """A second copy of the model, sampled by `model.generate`."""

    checkpoint_names = False

    @staticmethod
    def check(config: Config, context: EngineContext) -> None:
        """See `EngineProtocol.check`: any model can be sampled, but not to a text."""
        _find_ends(config, context)

    def __init__(self, config: Config, context: EngineContext) -> None:
        """Loads the model and its tokenizer. Not a collective.

        Raises UserError for options that this engine does not support.
        """
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig

        model = context.model
        self.config = config
        self.tokenizer, self.ends = _find_ends(config, context)
        self.model = AutoModelForCausalLM.from_pretrained(
            model.path,
            dtype=getattr(torch, model.dtype),
            trust_remote_code=model.trust_remote_code,
            generation_config=GenerationConfig(),  # else `generate` fills in the model folder's
        ).to("cuda" if torch.cuda.is_available() else "cpu")
        self.model.eval()
        self.model.register_forward_hook(lambda *_: progress.tick())
        pad, rows = self.tokenizer.pad_token_id, self.model.get_input_embeddings().num_embeddings
        self.pad_id = pad if pad is not None and pad < rows else 0  # it is masked

    def generate(
        self, prompt_ids: Sequence[tuple[int, ...]], sampling: Sampling
    ) -> Iterator[tuple[int, int, Rollout]]:
        """See `EngineProtocol.generate`. All rollouts of a batch finish at the same time."""
        import torch

        torch.manual_seed(sampling.seed)
        rows = [ids for ids in prompt_ids for _ in range(sampling.samples)]
        size = self.config.max_sequences
        for first in range(0, len(rows), size):
            batch = self._sample_batch(rows[first : first + size], sampling)
            for row, rollout in enumerate(batch, first):
                yield *divmod(row, sampling.samples), rollout

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """See `EngineProtocol.load_weights`. Takes names as in the trainer's own model."""
        import torch

        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in weights:
                own.pop(name).copy_(tensor)
        if own:
            raise RuntimeError(f"the sync did not send {sorted(own)}")

    def sleep(self) -> None:
        """Does nothing: there is no cache between calls."""

    def wake(self, what: str) -> None:
        """Does nothing, since `sleep` frees nothing."""

    def close(self) -> None:
        """Frees the copy of the model."""
        del self.model

    def _sample_batch(self, rows: Sequence[tuple[int, ...]], sampling: Sampling) -> list[Rollout]:
        import torch
        from transformers import GenerationConfig, GenerationMixin

        longest = max(len(row) for row in rows)
        padded = [[self.pad_id] * (longest - len(row)) + list(row) for row in rows]
        seen = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        device = self.model.device
        with torch.no_grad():
            # not `self.model.generate`, which code in the model folder may replace
            out = GenerationMixin.generate(
                self.model,
                input_ids=torch.tensor(padded, device=device),
                attention_mask=torch.tensor(seen, device=device),
                generation_config=GenerationConfig(
                    do_sample=True,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    top_k=sampling.top_k,
                    min_p=sampling.min_p or None,
                    max_new_tokens=sampling.max_new_tokens,
                    eos_token_id=sorted(self.ends.ids) or None,
                    pad_token_id=self.pad_id,
                    output_scores=True,
                    return_dict_in_generate=True,
                ),
            )
        responses = out.sequences[:, longest:]
        # scores are the logits after temperature and truncation, so their softmax is μ
        logps = [
            score.float().log_softmax(-1).gather(-1, responses[:, t, None])[:, 0]
            for t, score in enumerate(out.scores)
        ]
        logp_rows = torch.stack(logps, dim=1).tolist()
        return [self._make_rollout(*row) for row in zip(responses.tolist(), logp_rows, strict=True)]

    def _make_rollout(self, ids: list[int], logps: list[float]) -> Rollout:
        end = next((t for t, token in enumerate(ids) if token in self.ends.ids), None)
        length = len(ids) if end is None else end + 1
        # text as vLLM gives it: without the token that ends it, and with every space
        text: Any = self.tokenizer.decode(
            ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Rollout(tuple(ids[:length]), tuple(logps[:length]), text, truncated=end is None)


def _find_ends(config: Config, context: EngineContext) -> tuple[Any, Ends]:
    """The tokenizer and the ends of responses, which are tokens: no text is searched."""
    from transformers import AutoTokenizer

    model = context.model
    tokenizer = AutoTokenizer.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    ends = find_ends(config, model, tokenizer)
    if ends.texts:
        raise UserError(
            "rollout.stop: the transformers engine does not search texts for "
            f"{', '.join(map(repr, ends.texts))}",
            "give the ids of single tokens in rollout.stop_token_ids instead, or use "
            'rollout.engine = "vllm"',
        )
    return tokenizer, ends
