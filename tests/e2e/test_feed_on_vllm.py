"""A feed on a real vLLM: late requests, order of arrival, rounds, and requests that are dropped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from drpo_cli.rollout import vllm
from drpo_cli.rollout.engine.protocol import EngineContext, sample_groups
from drpo_cli.settings import ModelSettings
from drpo_cli.types import Rollout
from support.feeds import SAMPLING, Delay, Said, Talks, replay_gap, starts
from support.models import tiny_model
from support.seeds import PROMPTS

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("environment")]

SHARED = 130  # tokens that all conversations begin with: more than a block of vLLM's cache on a CPU
DELAYS: tuple[Delay, ...] = (
    lambda talk, turn: 0,
    lambda talk, turn: (5 * talk + 3 * turn) % 7,
    lambda talk, turn: 8 - talk,
)


def test_conversations(tmp_path: Path) -> None:
    model = ModelSettings(path=str(tiny_model(tmp_path / "model")), dtype="float32")
    engine = vllm.Engine(vllm.Config(max_sequences=5), EngineContext(model, 384, 1))
    lm = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    late_requests_continue_what_was_said(engine, lm)
    rounds_are_exact(engine)
    prompts_may_be_cut(engine)
    what_is_dropped_leaves_nothing(engine)
    engine.close()


def late_requests_continue_what_was_said(engine: vllm.Engine, lm: torch.nn.Module) -> None:
    """Whenever answers come, the same tokens, with log μ up to rounding."""
    first, *others = (hold(engine, delay, in_rounds=False) for delay in DELAYS)
    assert len(first) == 6 * 3 and replay_gap(first, lm) < 2e-5
    for other in others:
        assert {key: (ids, one.token_ids) for key, (ids, one) in other.items()} == {
            key: (ids, one.token_ids) for key, (ids, one) in first.items()
        }
        assert replay_gap(other, lm) < 2e-5


def rounds_are_exact(engine: vllm.Engine) -> None:
    """The engine gets the same requests in front of the same steps, whenever answers come."""
    for in_rounds in (False, True):
        with logged(engine) as logs:
            first, *others = (hold(engine, delay, in_rounds) for delay in DELAYS)
        same = [log == logs[0] for log in logs]
        assert len(same) == len(DELAYS) and all(same) == in_rounds
    assert all(other == first for other in others)


@contextmanager
def logged(engine: vllm.Engine) -> Iterator[list[list[Any]]]:
    """What vLLM is asked for in each call of `generate`: requests, by their prompts, and steps."""
    inside, logs = engine.llm.llm_engine, list[list[Any]]()
    drop, add, step = engine._drop_prefix_cache, inside.add_request, inside.step

    def drops() -> None:
        logs.append([])
        drop()

    def adds(name: str, prompt: dict[str, Any], *more: Any, **options: Any) -> str:
        logs[-1].append(prompt["prompt_token_ids"])
        return str(add(name, prompt, *more, **options))

    def steps() -> Any:
        logs[-1].append("step")
        return step()

    engine._drop_prefix_cache = drops  # type: ignore[method-assign]
    inside.add_request, inside.step = adds, steps
    yield logs
    del engine._drop_prefix_cache, inside.add_request, inside.step


def prompts_may_be_cut(engine: vllm.Engine) -> None:
    """Prompts that vLLM computes in parts, several of them in some steps: the same tokens."""
    whole = hold(engine, DELAYS[1], in_rounds=False)
    scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
    most, scheduler.max_num_scheduled_tokens = scheduler.max_num_scheduled_tokens, 50
    cut = hold(engine, DELAYS[1], in_rounds=False)
    scheduler.max_num_scheduled_tokens = most
    assert {key: (ids, one.token_ids) for key, (ids, one) in cut.items()} == {
        key: (ids, one.token_ids) for key, (ids, one) in whole.items()
    }


def hold(engine: vllm.Engine, delay: Delay, in_rounds: bool) -> Said:
    return Talks(starts(6, SHARED), 3, delay, in_rounds).hold(engine)


def what_is_dropped_leaves_nothing(engine: vllm.Engine) -> None:
    """A consumer that fails, and one that closes the generator in the middle of a step."""
    whole = sample_groups(engine, PROMPTS, SAMPLING)
    inside = engine.llm.llm_engine

    def fails(at: int, sample: int, rollout: Rollout) -> None:
        assert inside.has_unfinished_requests()
        raise KeyError(at)

    with pytest.raises(KeyError):
        sample_groups(engine, PROMPTS, SAMPLING, fails)
    scheduler = inside.engine_core.engine_core.scheduler
    assert not inside.has_unfinished_requests() and not scheduler.has_unfinished_requests()
    assert sample_groups(engine, PROMPTS, SAMPLING) == whole

    talks = Talks(starts(6), 3)
    with closing(engine.generate(talks, SAMPLING)) as sampled:
        key, rollout = next(sampled)
        talks.answer(key, rollout)
        next(sampled)
    assert not scheduler.has_unfinished_requests()
    assert sample_groups(engine, PROMPTS, SAMPLING) == whole
