"""The installed vLLM has the options and methods that the engine uses, on CPUs and on GPUs."""

import dataclasses
import inspect
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from drpo_cli.errors import UserError
from drpo_cli.rollout import vllm as engine
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, derive_seed
from drpo_cli.rollout.engine.vllm_errors import KEYS, Start, explain
from drpo_cli.rollout.engine.vllm_weights import copy_in_place
from drpo_cli.settings import ModelSettings
from drpo_cli.step.sync import WeightSync
from support.models import tiny_model, world
from support.sleeper import Sleeper
from support.training import open_trainer

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
    assert arguments["enforce_eager"] is not cuda  # graphs on a GPU
    assert ("distributed_executor_backend" in arguments) == (ranks > 1)
    assert arguments.get("cpu_distributed_timeout_seconds") == (7200 if ranks > 1 else None)
    assert arguments["tensor_parallel_size"] == 1


def test_vllm_has_what_keeps_ranks_from_its_shared_memory() -> None:
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    assert callable(CpuCommunicator._all_group_ranks_share_shm_group_name)


def test_vllm_has_the_options_of_sleep_and_wake() -> None:
    assert "level" in inspect.signature(vllm.LLM.sleep).parameters
    assert "tags" in inspect.signature(vllm.LLM.wake_up).parameters


def test_a_push_wakes_the_weights_first(tmp_path: Path) -> None:
    waiting, asleep = engine.Engine.__new__(engine.Engine), Sleeper()
    waiting.llm, waiting.can_sleep, waiting.asleep = asleep, True, set()
    context = EngineContext(ModelSettings(path="the-model"), 64, 1)
    waiting.explained = partial(engine._explained, engine.Config(), context)
    with world() as here:
        trainer = open_trainer(tiny_model(tmp_path), here)
        push = WeightSync(trainer, waiting, Precision("float32", "float32")).push
        names = f"load {[name for name, _ in trainer.policy.named_weights()]}"
        push(0)
        assert asleep.calls == [names, "drop cache"]  # it was awake
        waiting.sleep()
        asleep.calls.clear()
        push(1)
        assert asleep.calls == ["wake ['weights']", names, "drop cache", "wake ['kv_cache']"]
        waiting.wake("kv_cache")
        assert len(asleep.calls) == 4
        asleep.calls.append("refuse")
        with pytest.raises(RuntimeError, match="prefix cache"):
            push(2)

        def refuse(weights_iterator: object) -> None:
            raise ValueError("There is no module or parameter named 'layers' in X.")

        asleep.llm_engine.model_executor.driver_worker.worker.reload_weights = refuse
        with pytest.raises(UserError, match="the-model has a weight 'layers' under a name"):
            push(3)


def test_held_weights_are_overwritten_and_the_others_yielded() -> None:
    held, other = torch.zeros(2, 3), torch.ones(3)
    sent = [("embed", torch.ones(2, 3)), ("norm", other), ("embed", torch.ones(4, 3))]
    left = list(copy_in_place({"embed": held}, iter(sent)))
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


def refusal(**arguments: Any) -> Exception:
    """What vLLM itself raises for these arguments, before it starts anything."""
    from vllm.engine.arg_utils import EngineArgs

    with pytest.raises(ValueError) as caught:
        EngineArgs(dtype="float32", **arguments).create_engine_config()
    return caught.value


def said(error: Exception, cuda: bool = False, **options: Any) -> str:
    config = engine.Config(max_new_tokens=100, **options)
    found = explain(error, Start(config, "the-model", 2000, cuda))
    assert found is not None
    assert not any(theirs in str(found) for theirs in KEYS)  # in our own words
    return str(found)


def test_what_vllm_refuses_is_said_in_the_keys_of_a_spec(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    error = refusal(model=str(model), max_model_len=600)
    assert "rollout.context_length is 600" in said(error) and "at most 512 tokens" in said(error)
    error = refusal(model=str(model), max_num_seqs=10**6, max_model_len=64)
    assert said(error).startswith("rollout.max_sequences is 1000000: vLLM computes at most")
    file = model / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    error = refusal(model=str(model), max_model_len=64)
    assert said(error).startswith("rollout.engine: vLLM refuses the-model or these settings:")
    file.write_text(json.dumps({**config, "architectures": ["OwnForCausalLM"]}))
    said_so = said(refusal(model=str(model), max_model_len=64))
    assert "vLLM does not know the architecture 'OwnForCausalLM' of the-model" in said_so


@pytest.mark.parametrize(
    ("fits", "cuda", "cure"),
    [
        (512, False, "set rollout.context_length = 512, or less, or set rollout.cpu_cache_gib = 4"),
        (64, False, "; set rollout.cpu_cache_gib = 4"),
        (512, True, "512, or less, or set rollout.gpu_memory_fraction above 0.5"),
    ],
)
def test_a_cache_that_vllm_finds_too_small(fits: int, cuda: bool, cure: str) -> None:
    from vllm.v1.core.kv_cache_utils import _check_enough_kv_cache_memory

    with pytest.raises(ValueError) as caught:
        _check_enough_kv_cache_memory(2**30, lambda: 3 * 2**30, 2000, lambda size: fits)
    text = said(caught.value, cuda)
    assert text.startswith("rollout.context_length is 2,000 tokens, the model's limit")
    assert text.endswith(cure)
    with pytest.raises(ValueError) as caught:
        _check_enough_kv_cache_memory(0, lambda: 1, 2000, lambda size: fits)
    assert "nothing is left for the KV cache" in said(caught.value, cuda)


def test_other_errors_of_vllm_keep_their_traceback() -> None:
    start = Start(engine.Config(), "the-model", 2000, cuda=False)
    assert explain(ValueError("not enough values to unpack"), start) is None


def test_weights_under_names_that_vllm_does_not_know() -> None:
    from vllm.model_executor.models import utils

    words = "There is no module or parameter named "
    assert words in inspect.getsource(utils)  # its loader's, after half a minute's start
    message = said(ValueError(f"{words}'layers' in LlamaForCausalLM."))
    assert message.startswith("model.path: the-model has a weight 'layers' under a name that vLLM")


def test_a_cache_that_cannot_hold_one_sequence_is_refused_before_vllm_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tmp_path / "model", max_position_embeddings=2_000_000)
    settings = ModelSettings(path=str(model), dtype="float32")
    context = EngineContext(settings, 2_000_000, 1)
    with pytest.raises(UserError) as caught:
        engine.Engine(engine.Config(), context)
    text = str(caught.value)
    assert "one such sequence takes 1.9 GiB (2 layers, 128 numbers of 4 bytes per token" in text
    assert "rollout.cpu_cache_gib is 1; " in text
    assert text.endswith(
        "rollout.context_length = 1048576, or less, or set rollout.cpu_cache_gib = 2"
    )
    engine.Engine.check(engine.Config(), EngineContext(settings, 1048576, 1))
    engine.Engine.check(engine.Config(cpu_cache_gib=2), context)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    engine.Engine.check(engine.Config(), context)  # its cache depends on what is free
