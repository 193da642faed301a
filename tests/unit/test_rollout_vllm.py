"""The installed vLLM has the options and methods that the engine uses, on CPUs and on GPUs."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch

from drpo_cli.rollout import vllm as engine
from drpo_cli.rollout.engine.protocol import EngineContext, derive_seed
from drpo_cli.rollout.vllm import _copy_in_place
from drpo_cli.settings import ModelSettings

vllm = pytest.importorskip("vllm")


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
def test_vllm_knows_the_arguments(
    cuda: bool, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    context = EngineContext(ModelSettings(path=str(tmp_path)), 128, ranks)
    arguments = engine.engine_arguments(engine.Config(gpu_memory_fraction=0.4), context)
    from vllm.engine.arg_utils import EngineArgs

    known = {f.name for f in dataclasses.fields(EngineArgs)}
    known |= set(inspect.signature(vllm.LLM.__init__).parameters)
    assert set(arguments) <= known
    assert arguments["logprobs_mode"] == "processed_logprobs"
    assert arguments.get("gpu_memory_utilization") == (0.4 if cuda else None)
    assert arguments.get("enable_sleep_mode") == (True if cuda else None)
    assert ("distributed_executor_backend" in arguments) == (ranks > 1)


def test_vllm_has_the_options_of_sleep_and_wake() -> None:
    assert "level" in inspect.signature(vllm.LLM.sleep).parameters
    assert "tags" in inspect.signature(vllm.LLM.wake_up).parameters


def test_held_weights_are_overwritten_and_the_others_yielded() -> None:
    held, other = torch.zeros(2, 3), torch.ones(3)
    sent = [("embed", torch.ones(2, 3)), ("norm", other), ("embed", torch.ones(4, 3))]
    left = list(_copy_in_place({"embed": held}, iter(sent)))
    assert held.tolist() == torch.ones(2, 3).tolist()
    # the reload refuses another shape
    assert [(name, tuple(weight.shape)) for name, weight in left] == [
        ("norm", (3,)),
        ("embed", (4, 3)),
    ]


def test_a_seed_depends_on_each_of_its_parts() -> None:
    seeds = {
        derive_seed(run, step, rank) for run in range(3) for step in range(3) for rank in range(3)
    }
    assert len(seeds) == 27
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert derive_seed(1, 2, 0) == derive_seed(1, 2, 0)
