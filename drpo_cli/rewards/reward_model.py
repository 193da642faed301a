"""The score that a sequence-classification model gives to prompt and completion.

The score is the logit of the model's only label, or of `label`. Scores of a group are computed in
batches of equal width; the padding is masked and changes only the rounding.

A learned reward is only an estimate of what you want, and a policy finds its errors: keep a
divergence to the reference (`[reference]`), and also log a reward that is not learned.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from drpo_cli import pretrained
from drpo_cli.chat_templates import fixed_date
from drpo_cli.errors import UserError
from drpo_cli.settings import Count, RewardSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

IMPORTS = ("torch", "transformers")
NEEDS = "a model"


class Config(RewardSettings):
    """Options of the model."""

    path: Annotated[str, Field(min_length=1)]
    """A model folder (relative paths count from the spec's folder) or a hub id."""
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    """Where it runs: `cpu`, `cuda` or `cuda:1`. Leave memory for it next to training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of its weights and of the computation. The score itself is computed in float32."""
    batch_size: Count = 8
    """Completions in one forward pass."""
    max_length: Count | None = None
    """Longest text in tokens; the model's own limit when not set. A longer text loses its start,
    and the metrics count it as `truncated`."""
    chat: bool = True
    """Apply the model's own chat template to the prompt as the user's message and the completion as
    the answer. `false` reads prompt and completion as one text, which is right where the prompt
    already has the same template in it (`chat = true` in `[[data]]`)."""
    suffix: str = ""
    """Text after the completion when `chat = false`, such as the token that ends a turn:
    completions do not have special tokens."""
    label: int | str | None = None
    """Number or name of the label whose logit is the score; required where there are several."""
    sigmoid: bool = False
    """Map the logit to 0 … 1."""
    trust_remote_code: bool = False
    """Allow the model folder or hub repository to run its own modelling code."""
    workers: Count = 1
    """Processes that run it, on each rank; each holds the model."""
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Longest time for the completions of one prompt, in seconds; then the process is killed and
    the call fails."""

    @field_validator("path")
    @classmethod
    def _find_path(cls, path: str, info: ValidationInfo) -> str:
        local = ((info.context or {}).get("folder") or Path()) / os.path.expanduser(path)
        if local.exists():
            return str(local)
        if path[0] in "./~":
            raise ValueError(f"there is no model folder {local}")
        return path


class reward:
    """`counts` has the `tokens` that it reads, and the texts that were `truncated`."""

    def __init__(self, config: Config) -> None:
        """Loads the model. Raises UserError for one that cannot be loaded or cannot score."""
        self._config = config
        self.counts: Counter[str] = Counter()
        self._tokenizer, self._model = _load(config)
        self._rows = self._model.get_input_embeddings().num_embeddings
        self._label = _label(config, self._model.config)
        self._pad = _padding(config, self._model.config, self._tokenizer, self._rows)
        positions = getattr(self._model.config, "max_position_embeddings", None)
        # Not positions alone: some models number theirs from 2.
        limits = (positions, self._tokenizer.model_max_length)
        self._longest = config.max_length or min(limit for limit in limits if limit)

    def __call__(self, prompt: str, completions: list[str]) -> list[float]:
        """One score per completion."""
        ids_G = [self._encode(prompt, completion) for completion in completions]
        size = self._config.batch_size
        return [
            score
            for start in range(0, len(ids_G), size)
            for score in self._score_batch(ids_G[start : start + size])
        ]

    def _encode(self, prompt: str, completion: str) -> list[int]:
        if self._config.chat:
            turns = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": completion},
            ]
            date = fixed_date(self._tokenizer.chat_template)
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, **date)
            special = False
        else:
            text = f"{prompt}{completion}{self._config.suffix}"
            first = self._tokenizer.bos_token
            special = first is None or not text.startswith(first)
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        kept = ids[-self._longest :]
        if (highest := max(kept, default=0)) >= self._rows:
            token = self._tokenizer.convert_ids_to_tokens(highest)
            raise ValueError(
                f"the text has the token {token!r} (id {highest}), but the embedding of "
                f"{self._config.path} has only {self._rows} rows"
            )
        self.counts["truncated"] += len(kept) < len(ids)
        self.counts["tokens"] += len(kept)
        return kept

    def _score_batch(self, ids_G: list[list[int]]) -> list[float]:
        import torch

        width = max(map(len, ids_G))
        rows = [ids + [self._pad] * (width - len(ids)) for ids in ids_G]
        mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids in ids_G]
        device = self._config.device
        with torch.inference_mode():
            logits: Tensor = self._model(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=torch.tensor(mask, device=device),
            ).logits
        score_G = logits[:, self._label].float()
        if self._config.sigmoid:
            score_G = score_G.sigmoid()
        scores: list[float] = score_G.tolist()
        return scores


def _load(config: Config) -> tuple[Any, Any]:
    """Loads tokenizer and model; every weight must be in the checkpoint."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from drpo_cli.products import widen

    where, code = "reward model", {"trust_remote_code": config.trust_remote_code}
    tokenizer = pretrained.read(AutoTokenizer, config.path, where, **code)
    model = pretrained.load(
        AutoModelForSequenceClassification,
        config.path,
        where,
        dtype=getattr(torch, config.dtype),
        **code,
    )
    for head in _score_heads(model):
        widen(head)
    names = pretrained.find_not_finite(model.state_dict().items())
    pretrained.refuse_not_finite(names, config.path, where)
    try:
        model = model.to(config.device)
    except (RuntimeError, AssertionError) as error:  # Assertion: no CUDA built
        raise UserError(f"reward model {config.path} on {config.device}: {error}") from error
    if config.chat and tokenizer.chat_template is None:
        raise UserError(
            f"reward model {config.path}: its tokenizer has no chat template", "set chat = false"
        )
    return tokenizer, model


def _score_heads(model: Any) -> list[nn.Linear]:
    """The layer that gives the labels' logits, the last of that width outside the base model.

    Rounded to bfloat16, scores between 8 and 16 would be multiples of 1/16, and many equal.
    """
    from torch import nn

    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and not name.startswith(f"{model.base_model_prefix}.")
    ][-1:]


def _label(config: Config, model: Any) -> int:
    names = {i: model.id2label[i] for i in range(model.num_labels)}
    if config.label is None and len(names) == 1:
        return 0
    for i, name in names.items():
        if config.label in (i, name):
            return i
    there = ", ".join(f"{i} = {name}" for i, name in names.items())
    asked = "needs a label" if config.label is None else f"has no label {config.label!r}"
    raise UserError(f"reward model {config.path} {asked}; set label to one of: {there}")


def _padding(config: Config, model: Any, tokenizer: Any, rows: int) -> int:
    """The token to pad with: the model's own padding token, if it has one.

    A decoder gives its score at the last token that is not this one.
    """
    known = (model.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    pad = next((token for token in known if token is not None and token < rows), None)
    if pad is None and config.batch_size > 1:
        raise UserError(
            f"reward model {config.path}: neither model nor tokenizer has a padding or an "
            "end-of-sequence token",
            "set batch_size = 1",
        )
    model.pad_token_id = pad
    return 0 if pad is None else pad  # 0: a batch of one is not padded
