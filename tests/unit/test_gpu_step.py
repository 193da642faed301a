"""The trainer's own step on a fake GPU, as one of 64 ranks: kernels, bytes, memory, devices.

The counts are exact, so they may decide. A fake GPU computes nothing: see `support.fake_gpu`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

RANKS = 64
TOLERANCE = 0.07
"""Of peaks, which `drpo plan` takes from tensors on the CPU."""


@cache
def ran(program: str) -> dict[str, Any]:
    """What a program of `support.gpu_steps` found."""
    done = subprocess.run(
        [sys.executable, "-m", "support.gpu_steps", program],
        env={"PYTHONPATH": "tests:.", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# Kernels of a step with one micro-batch of 16,384 tokens, and TB that they read and write. At 6 µs
# a launch the host needs 50 ms for 8B; the products of its pass take 2 s at 400 TFLOP/s.
@pytest.mark.parametrize(
    ("model", "layers", "kernels", "terabytes"),
    [
        ("0.6B", 28, 7_500, 1.0),
        ("8B", 36, 9_300, 2.9),
        ("32B", 64, 15_500, 8.0),
        ("30B-A3B", 48, 14_200, 4.0),
    ],
)
def test_a_step_stays_within_its_budget(
    model: str, layers: int, kernels: int, terabytes: float
) -> None:
    found = ran("budgets")[model]
    assert kernels / 2 < found["kernels"] < kernels
    assert terabytes / 2 < found["moved"] / 1e12 < terabytes
    # a layer is gathered twice and reduced once, as the rest is once; one reduction of the norm
    assert found["collectives"] == 3 * layers + 4
    # the host waits for the loss, for the statistics, and for the norm
    assert found["reads"] == 3


def test_products_in_fp8_are_such_as_a_gpu_has() -> None:
    """torch refuses a fake product whose tokens are no multiple of 16; there are 1,100 here."""
    found = {recipe: step["products"] for recipe, step in ran("float8").items()}
    of_layers = 3 * 7 * 2  # forward and backward, of 7 linear layers in each of 2
    assert found["None"] - found["rowwise"] == found["None"] - found["tensorwise"] == of_layers


def test_the_plan_knows_what_a_rank_of_64_holds() -> None:
    found = ran("plan")
    rotary = 512  # frequencies of the rotary embedding
    assert found["shards"] == 4 * found["parameters"] // RANKS + rotary
    for case in ("plain", "per update", "offload"):
        step, planned = found[case]["step"], found[case]["plan"]
        update = planned["optimizer"]
        assert step["weights"] == update["weights"]
        assert step["gradients"] == update["gradients"] == update["weights"] - rotary
        assert step["in the update"] >= sum(update[part] for part in ("weights", "optimizer"))
        assert step["peak"] == pytest.approx(sum(planned["train"].values()), rel=TOLERANCE)
        moments = 0 if case == "offload" else update["optimizer"]
        counters = step["between steps"] - update["weights"] - moments
        assert 0 <= counters < 1024  # the number of updates of each weight
        assert step["again"] == step["between steps"]


def test_gradients_of_all_weights_are_kept_only_where_that_is_asked_for() -> None:
    found = {case: ran("plan")[case]["step"] for case in ("plain", "per update")}
    of_all = RANKS * found["plain"]["gradients"]
    assert found["per update"]["peak"] - found["plain"]["peak"] > 0.9 * of_all
    assert found["per update"]["collectives"] < found["plain"]["collectives"]


def test_copies_are_summed_after_the_last_micro_batch_only() -> None:
    found = ran("plan")
    assert found["plain"]["step"]["sums of copies"] == 0
    assert found["copies"]["sums of copies"] == 3 + 1  # of each layer, and of all that is outside
    assert found["copies"]["gradients"] == 8 * found["plain"]["step"]["gradients"]


def test_moments_are_in_main_memory_between_steps() -> None:
    found = ran("plan")
    assert found["offload"]["step"]["moments on"] == ["cpu", "cuda"]  # "cuda": their counters
    assert found["plain"]["step"]["moments on"] == ["cuda"]


def test_no_term_of_attention_needs_a_kernel_that_holds_the_scores() -> None:
    found = ran("terms")["steps"]
    assert found["GptOss"]["_varlen_attn"] == found["DeepseekV3"]["_varlen_attn"] == 2
    assert found["GptOss"]["_varlen_attn_backward"] == 2
    assert found["Gemma2"]["attend"] == found["Gemma2"]["attend_backward"] > 0
    for name, kernels in found.items():
        others = {kernel for kernel in kernels if "scaled_dot" in kernel or "bmm" in kernel}
        assert not others, name


def test_attention_over_padded_rows_is_a_fused_kernel_without_a_mask() -> None:
    for name, layers in (("StableLm", 2), ("Lfm2", 1)):
        kernels = ran("padded")[name]
        fused = {kernel: count for kernel, count in kernels.items() if "scaled_dot" in kernel}
        assert set(fused.values()) == {layers} and len(fused) == 2, name  # forward and backward
        assert not {"bmm", "_softmax"} & kernels.keys(), name


def test_products_of_halves_are_float32_on_a_gpu() -> None:
    kernels = {"head": {"mm": 1}, "attention": {"bmm": 1}}
    expected = {name: {"dtype": "torch.float32", "kernels": k} for name, k in kernels.items()}
    assert ran("terms")["products"] == expected
