"""log μ of the transformers engine: as exact as float32 from the hidden states that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling, sample_groups
from drpo_cli.settings import ModelSettings
from support.models import tiny_model
from support.seeds import PROMPTS

SAMPLING = Sampling(samples=3, max_new_tokens=5, temperature=0.7, seed=1)
CAP = 5.0
KINDS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "gemma2": {"final_logit_softcapping": CAP},
    "phi": {},  # a head with a bias
}


def errors(folder: Path, kind: str, head_dtype: Any) -> Tensor:
    """|log μ − that of float64| of every sampled token, from the same bfloat16 inputs."""
    model = ModelSettings(path=str(tiny_model(folder, kind, **KINDS[kind])), dtype="bfloat16")
    engine = transformers.Engine(
        transformers.Config(head_dtype=head_dtype), EngineContext(model, 64, 1)
    )
    head, steps = engine.model.get_output_embeddings(), []

    def look(_: Any, args: tuple[Tensor]) -> None:
        hidden_SD = args[0][:, -1].double()
        if len(hidden_SD) < SAMPLING.samples * len(PROMPTS):
            return  # the prompts of groups, whose logits nobody takes
        bias_V = 0 if head.bias is None else head.bias.double()
        logits_SV = hidden_SD @ head.weight.double().T + bias_V
        if kind == "gemma2":
            logits_SV = CAP * (logits_SV / CAP).tanh()
        steps.append((logits_SV / SAMPLING.temperature).log_softmax(-1))

    head.register_forward_pre_hook(look)
    groups = sample_groups(engine, PROMPTS, SAMPLING)
    rollouts = [rollout for group in groups for rollout in group.rollouts_G]
    return torch.tensor(
        [
            abs(float(steps[t][row, token]) - logp)
            for row, rollout in enumerate(rollouts)
            for t, (token, logp) in enumerate(zip(rollout.token_ids, rollout.logps, strict=True))
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_log_mu_is_not_rounded(kind: str, tmp_path: Path) -> None:
    assert errors(tmp_path / "model", kind, "float32").max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_in_the_dtype_of_the_model_rounds_it(kind: str, tmp_path: Path) -> None:
    assert errors(tmp_path / "model", kind, "model").mean() > 5e-4
