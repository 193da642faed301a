"""A real vLLM runs the text model of a multimodal checkpoint alone, and takes the sync's names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMultimodalLM

from drpo_cli.rollout import vllm
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.rollout.engine.text_model import stored_weights
from drpo_cli.settings import ModelSettings
from support.multimodal import tiny_multimodal
from support.seeds import sample_each

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("environment")]

PROMPTS = ((20, 21, 22), (30, 31, 32, 33))
SAMPLING = Sampling(samples=4, max_new_tokens=20, temperature=1.0, seed=1)


def test_the_text_model_alone(tmp_path: Path) -> None:
    """First as `drpo eval` starts it, which reads the folder, then with weights of a trainer."""
    model = ModelSettings(path=str(tiny_multimodal(tmp_path / "model", "gemma3")), dtype="float32")
    engine = vllm.Engine(vllm.Config(max_sequences=16), EngineContext(model, 64, 1))
    lm = AutoModelForMultimodalLM.from_pretrained(model.path).eval()
    assert gap(engine, lm) < 2e-5
    with torch.no_grad():
        for weight in lm.model.language_model.parameters():
            weight.mul_(1.1)
    assert gap(engine, lm) > 1e-2
    changed = ((name, weight * 1.1) for name, weight in stored_weights(model))
    engine.load_weights(changed)
    assert gap(engine, lm) < 2e-5
    engine.close()


def gap(engine: vllm.Engine, lm: torch.nn.Module) -> float:
    """The largest |log π − log μ| of sampled tokens."""
    worst = 0.0
    for at, _, rollout in sample_each(engine, PROMPTS, SAMPLING):
        ids = torch.tensor([PROMPTS[at] + rollout.token_ids])
        with torch.no_grad():
            logp_TV = lm(input_ids=ids).logits[0, len(PROMPTS[at]) - 1 : -1].log_softmax(-1)
        logp_T = logp_TV.gather(-1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
        worst = max(worst, float((logp_T - torch.tensor(rollout.logps)).abs().max()))
    return worst
