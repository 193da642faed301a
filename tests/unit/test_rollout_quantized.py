"""Engines that quantise their weights: what may be combined with them, and what is imitated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.precision import Precision, check_device, find_quantised, round_rows
from drpo_cli.settings import RolloutSettings
from drpo_cli.spec import load
from drpo_cli.step import build
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
    ],
)
def test_what_does_not_go_together(rollout: str, message: str, tmp_path: Path) -> None:
    assert message in problem(tmp_path, SMALLEST + rollout)


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
