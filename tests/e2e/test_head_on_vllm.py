"""vLLM's log μ in bfloat16: as exact as float32 from the hidden states that its layers give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drpo_cli.rollout import vllm
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.settings import ModelSettings
from support.models import tiny_model
from support.seeds import sample_each

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("environment")]

SAMPLING = Sampling(samples=1, max_new_tokens=20, temperature=0.7, seed=1)
PROMPT = (20, 21, 22)
CAP = 5.0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("qwen3", {}),
        ("qwen3", {"quantization": "fp8"}),
        ("gemma2", {}),
        ("qwen3", {"head_dtype": "model"}),
    ],
)
def test_log_mu_is_rounded_only_where_that_is_asked_for(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    own: dict[str, Any] = {"final_logit_softcapping": CAP} if kind == "gemma2" else {}
    model = ModelSettings(path=str(tiny_model(tmp_path / "model", kind, **own)), dtype="bfloat16")
    config = vllm.Config(max_sequences=16, **options)
    engine = vllm.Engine(config, EngineContext(model, 64, 1))
    lm = engine._worker.model_runner.get_model()
    logp_V: list[Tensor] = []

    def look(_: Any, args: tuple[Any, Tensor]) -> None:
        head, hidden_SD = args
        logits_V = hidden_SD[-1].double() @ head.weight.double().T
        if own:
            logits_V = CAP * (logits_V / CAP).tanh()
        logp_V.append((logits_V / SAMPLING.temperature).log_softmax(-1))

    lm.logits_processor.register_forward_pre_hook(look)
    [(_, _, rollout)] = sample_each(engine, (PROMPT,), SAMPLING)
    engine.close()
    steps = logp_V[-len(rollout.token_ids) :]
    exact = [float(logp_V[token]) for logp_V, token in zip(steps, rollout.token_ids, strict=True)]
    errors = torch.tensor(exact).sub(torch.tensor(rollout.logps)).abs()
    assert errors.max() < 1e-5 if config.head_dtype == "float32" else errors.mean() > 5e-4
