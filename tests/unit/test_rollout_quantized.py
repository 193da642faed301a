"""Engines that quantise their weights: what may be combined with them, and what is imitated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from drpo_cli.errors import UserError
from drpo_cli.plan import describe, make_plan
from drpo_cli.rollout.engine.precision import Precision, check_device, find_quantised, round_rows
from drpo_cli.rollout.vllm import Config
from drpo_cli.settings import RolloutSettings
from drpo_cli.spec import load
from drpo_cli.step import build
from drpo_cli.tools.memory.engine import estimate_vllm, parse_device
from support.specs import SMALLEST, problem, write

FP8 = '[rollout]\nquantization = "fp8"\n'


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        (
            FP8 + 'weight_rounding = "int8"\n',
            "rollout.weight_rounding: is 'int8', which imitates an engine with quantised weights, "
            "and rollout.quantization 'fp8' is one",
        ),
        (
            FP8 + 'dtype = "float32"\n',
            "rollout.quantization: is 'fp8', with which vLLM computes the rest in bfloat16",
        ),
        (FP8 + 'engine = "transformers"\n', "rollout.quantization: is not a known key"),
        (
            FP8 + '[lora]\nsync = "merged"\n',
            "rollout.quantization: rounds weights that have adapters merged into them",
        ),
        (
            '[rollout]\nengine = "transformers"\nweight_rounding = "int8"\n[lora]\n',
            "rollout.weight_rounding: rounds weights that have adapters merged into them",
        ),
    ],
)
def test_what_does_not_go_together(rollout: str, message: str, tmp_path: Path) -> None:
    assert message in problem(tmp_path, SMALLEST + rollout)


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.head_dtype=model", "model.dtype=float32"),
        ("rollout.head_dtype=model", "rollout.dtype=float32"),
    ],
)
def test_a_head_in_the_models_dtype_where_that_is_float32(
    overrides: tuple[str, str], tmp_path: Path
) -> None:
    key = overrides[0].partition("=")[0]
    assert f"{key}: has no effect" in problem(tmp_path, SMALLEST, *overrides)


def test_each_side_chooses_the_dtype_of_its_head(tmp_path: Path) -> None:
    keys = '[train]\nhead_dtype = "model"\n[rollout]\ndtype = "float32"\n'
    rows = dict(describe(make_plan(load(write(tmp_path, SMALLEST + keys)), 1)))
    assert "head in bfloat16" in rows["trainer on a CPU"] and "head" not in rows["rollout"]
    (tmp_path / "both").mkdir()
    rows = dict(describe(make_plan(load(write(tmp_path / "both", SMALLEST)), 1)))
    assert "head in float32" in rows["trainer on a GPU"] and "head in float32" in rows["rollout"]


def test_the_engine_gets_weights_that_it_quantises_itself(tmp_path: Path) -> None:
    precision = build.precision(load(write(tmp_path, SMALLEST + FP8)))
    assert precision == Precision("bfloat16", "bfloat16", quantization="fp8")
    assert RolloutSettings().quantised_to() is None
    weight = torch.randn(8, 8)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(precision.convert(name, weight), weight.bfloat16())
    assert precision.coarsest == "fp8" and precision.rounds


def test_only_what_the_engine_quantises_is_imitated() -> None:
    precision = Precision("float32", "bfloat16", quantization="int8")
    layer = "model.language_model.layers.11."
    quantised = frozenset({"self_attn.q_proj", "mlp.experts"})
    weight = torch.randn(3, 8, 16)
    rounded = round_rows(weight.bfloat16(), "int8").float()
    for name in ("self_attn.q_proj.weight", "mlp.experts.down_proj"):
        assert torch.equal(precision.imitate(layer + name, weight, quantised), rounded)
    for name in ("mlp.experts.down_proj_bias", "self_attn.k_proj.weight", "mlp.gate.weight"):
        assert precision.imitate(layer + name, weight, quantised) is weight
    bias = torch.randn(8)
    assert precision.imitate(layer + "self_attn.q_proj.bias", bias, quantised) is bias


class Method:
    """A method of vLLM that quantises weights as they arrive."""

    uses_meta_device = True


def test_packed_modules_have_the_names_of_checkpoints() -> None:
    class Model(torch.nn.Module):
        packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj"]}  # noqa: RUF012

    model, layer = Model(), torch.nn.Module()
    model.layers = torch.nn.ModuleList([layer])
    layer.attn, layer.mlp = torch.nn.Module(), torch.nn.Module()
    layer.mlp.experts = torch.nn.Module()
    for name in ("attn.qkv_proj", "attn.o_proj", "mlp.gate", "mlp.experts.routed"):
        path, _, last = name.rpartition(".")
        layer.get_submodule(path).add_module(last, torch.nn.Module())
        if last != "gate":
            setattr(layer.get_submodule(name), "quant_method", Method())  # noqa: B010
    assert find_quantised(model) == {"attn.q_proj", "attn.k_proj", "attn.o_proj", "mlp.experts"}


def test_the_plan_of_a_quantised_engine() -> None:
    """Layers of half the bytes; embedding and head stay, and experts where vLLM leaves them."""
    sizes = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "moe_intermediate_size": 32}
    config = Qwen3MoeConfig(**sizes, num_experts=8)
    with torch.device("meta"):
        lm = Qwen3MoeForCausalLM(config)
    numbers = sum(weight.numel() for weight in lm.parameters())
    head, experts = 2 * 1000 * 64, 2 * 8 * 3 * 64 * 32
    expected: dict[Any, int] = {
        (None, True): 2 * numbers,
        ("fp8", True): numbers + head,
        ("fp8", False): numbers + head + experts,
        ("int8", True): numbers + head + experts,
    }
    for (kind, cuda), size in expected.items():
        device = parse_device("48g" if cuda else "cpu-24g", 1)
        found = estimate_vllm(Config(quantization=kind), config, 2 * numbers, 2, device)
        assert found.weights == size
        assert found.reload == (numbers if cuda else 0)  # a layer of two, before it is quantised
        plain = Config(quantization=kind, head_dtype="model")
        narrow = estimate_vllm(plain, config, 2 * numbers, 2, device)
        # a CPU copies the head into float32 when it samples; a GPU has products for it
        assert found.working - narrow.working == (0 if cuda else 4 * 1000 * 64)


@pytest.mark.parametrize(
    ("kind", "capability", "dtype", "message"),
    [
        ("fp8", (8, 0), "bfloat16", "products in FP8 need 8.9 .* has compute capability 8.0"),
        ("int8", (10, 0), "bfloat16", r"are for 7.5 \(Turing\) to 9.0 .* capability 10.0"),
        ("int8", (9, 0), "float32", "results of 16 bits"),
    ],
)
def test_a_gpu_without_such_products(
    kind: str,
    capability: tuple[int, int],
    dtype: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    with pytest.raises(UserError, match=message):
        check_device(kind, dtype)
    check_device(None, dtype)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    check_device(kind, "bfloat16")


@pytest.mark.parametrize(
    ("architecture", "has", "exact"),
    [
        ("x86_64", "avx2", False),
        ("x86_64", "avx512_f", False),
        ("x86_64", "avx512_vnni", True),
        ("x86_64", "avx_vnni", True),
        ("aarch64", "neon", True),
    ],
)
def test_a_cpu_whose_8_bit_products_overflow(
    architecture: str, has: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = {"architecture": architecture, has: True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    check_device("fp8", "bfloat16")
    if exact:
        check_device("int8", "float32")
        return
    with pytest.raises(UserError, match=r"no dot products of 8-bit .* rollout.weight_rounding"):
        check_device("int8", "float32")
