"""What vLLM does with our arguments on GPUs: its own configuration, on a pretended machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.rollout.engine.protocol import Sampling, derive_seeds
from drpo_cli.rollout.engine.vllm_ranks import tell_every_rank
from drpo_cli.rollout.vllm import Config
from drpo_cli.tools.memory.engine import _batch_tokens, parse_device
from support.models import tiny_model

pytest.importorskip("vllm")

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tiny_model(tmp_path_factory.mktemp("h100") / "model")
    tiny_model(folder.parent / "mixture", "qwen3_moe")
    path = f"{TESTS}{os.pathsep}{TESTS.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "support.h100", str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.mark.parametrize("ranks", ["1", "8"])
def test_what_vllm_makes_of_the_arguments(found: dict[str, Any], ranks: str) -> None:
    assert found[ranks] == {
        "runner": "V2",
        "worker": "vllm.v1.worker.gpu_worker.Worker",
        "graphs": "FULL_AND_PIECEWISE",
        "compiled": "VLLM_COMPILE",
        "async": True,
        "executor": "uni" if ranks == "1" else "external_launcher",
        "ranks of an engine": 1,
        "sleep": True,
        "cumem": True,
        "logprobs": "processed_logprobs",
        "seed": 0,
        "tokens per batch": 16384,
        "sequences": 256,
        "memory": Config().gpu_memory_fraction,
        "dtype": "torch.bfloat16",
        "head": "torch.float32",
        "load format": "drpo_push",
        "tokenizer": "hf",
        "quantised": None,
    }


def test_options_reach_vllm(found: dict[str, Any]) -> None:
    eager = {"graphs": "NONE", "compiled": "NONE", "sleep": False, "cumem": False, "memory": 0.3}
    assert found["eager"] == found["1"] | eager
    assert found["tensor"] == found["8"] | {"ranks of an engine": 2}


def test_vllm_agrees_to_return_the_experts(found: dict[str, Any]) -> None:
    """It refuses where it could not: with its older runner, or without a cache of prefixes."""
    assert found["experts"] == found["mixture"] | {"returns experts": True}
    assert found["mixture"] == found["1"] | {"returns experts": False}


def test_every_rank_that_shares_an_engine_gets_the_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.aux_output_connector import worker

    monkeypatch.setattr(worker, "get_tp_group", None)  # the one thing that asks which rank it is
    used = [n for n, f in vars(worker.AuxOutputWorkerConnector).items() if callable(f)]
    code = [getattr(worker.AuxOutputWorkerConnector, name).__code__ for name in used]
    assert [c.co_name for c in code if "get_tp_group" in c.co_names] == ["__init__"]
    tell_every_rank()
    assert worker.get_tp_group().is_first_rank


def test_quantised_layers_have_kernels(found: dict[str, Any]) -> None:
    layers = {"layer": "Fp8PtpcOnlineLinearMethod", "experts": "Fp8PtpcOnlineMoEMethod"}
    assert found["fp8"] == found["1"] | {"quantised": {"name": "online", **layers}}
    assert found["int8"] == found["1"] | {"quantised": {"name": "drpo_int8"}}
    assert found["kernels"] == {
        "fp8": "CutlassFP8ScaledMMLinearKernel",
        "int8": "CutlassInt8ScaledMMLinearKernel",
    }


def test_the_memory_plan_knows_the_batch(found: dict[str, Any]) -> None:
    assert _batch_tokens(parse_device("h100-80g", 1)) == found["1"]["tokens per batch"]


def test_the_gpus_sampler_takes_our_seeds(found: dict[str, Any]) -> None:
    seeds = found["seeds"]
    assert seeds["none, torch 1"] == seeds["none, torch 2"]  # the reason for seeds of our own
    sampling = Sampling(samples=3, max_new_tokens=4, temperature=1.0, seed=7)
    ours = [seed for seeds_G in derive_seeds(sampling, [(5, 0), (5, 1)]) for seed in seeds_G]
    assert seeds["ours, torch 1"] == seeds["ours, torch 2"] == ours
    assert seeds["other order"] == ours[3:] + ours[:3]
    assert not set(seeds["other step"]) & set(ours)
