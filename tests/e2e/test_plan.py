"""`drpo plan`: its figures against measured peaks, its verdict, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from support.command import drpo, drpo_here
from support.specs import SMALLEST

ROOT = Path(__file__).parents[2]
TOLERANCE = 0.15
# A small trainer whose tensors still outweigh all else: 7 M weights, two micro-batches of 1,024.
MEASURE = """
import json, sys, tempfile
from pathlib import Path
from benchmarks._trainers import Shape, make_model
from benchmarks.plan_peaks import GIVES_BACK, Case, in_process, measure_case

shape = Shape(8192, 256, 768, layers=6, heads=8, kv_heads=4, head_dim=32)
case = Case(shape, checkpointing=sys.argv[1] == "checkpointing", ranks=int(sys.argv[2]))
with tempfile.TemporaryDirectory() as folder:
    model = make_model(Path(folder) / "model", shape)
    predicted = in_process("predict", case, model, {})[0]
    print(json.dumps([predicted, measure_case(case, model, GIVES_BACK)]))
"""
QWEN3_8B = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": False,
}
SPEC = f"""\
{SMALLEST.replace("some-org/some-model", "model")}
[rollout]
prompts_per_step = 32
samples_per_prompt = 16
max_new_tokens = 4096
context_length = 5120
[train]
gradient_checkpointing = true
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(QWEN3_8B))
    path = tmp_path / "run.toml"
    path.write_text(SPEC)
    return path


def planned(spec: Path, *options: object, fits: bool) -> dict[str, Any]:
    """The JSON of a plan that fits, with exit code 0, or of one that does not, with 1."""
    ran = drpo_here("plan", spec, "--json", *options)
    assert ran.returncode == (0 if fits else 1), ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    assert found["fits"] is fits
    return found


@pytest.mark.parametrize(("kind", "ranks"), [("plain", 1), ("checkpointing", 2)])
def test_predicted_peaks_are_measured_ones(kind: str, ranks: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, kind, str(ranks)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    predicted, measured = json.loads(ran.stdout.splitlines()[-1])
    assert predicted["train"] > 1.5 * predicted["sync"]  # the passes are what is measured
    for work, size in measured.items():
        assert abs(predicted[work] / size - 1) < TOLERANCE, (work, predicted, measured)


def test_a_model_of_eight_billion_fits_sixteen_gpus_and_not_one(spec: Path) -> None:
    with patch("drpo_cli.tools.memory.command.advise", return_value=[]):  # which takes long
        assert planned(spec, "--gpu", "h100-80g", fits=False)["free"] < 0
    offload = ("--set", 'train.offload="optimizer"')
    found = planned(spec, "--gpus", 8, "--gpu", "h100-80g", "--nodes", 2, *offload, fits=True)
    phases = {phase["name"]: phase["parts"] for phase in found["phases"]}
    weights, ranks = 8_190_735_360, 16
    assert found["parameters"] == weights
    assert phases["optimizer"]["weights"] == pytest.approx(4 * weights / ranks, rel=1e-3)
    moments = phases["optimizer"]["optimizer"]
    assert moments == pytest.approx(8 * weights / ranks, rel=1e-3)
    assert found["offloaded_bytes_per_node"] == 8 * moments
    assert {name for name in phases if "optimizer" in phases[name]} == {"train", "optimizer"}
    assert phases["rollout"]["engine weights"] == 2 * weights
    # the shard of the sum, and the whole gradients, in bfloat16, of what is just computed
    assert phases["train"]["gradients"] < 4 * weights / ranks + 2 * 2 * 151_936 * 4096
    assert found["sync"]["received"] == 2 * weights * 15 // 16
    assert found["sync"]["nodes"] == 2 * weights
    # two copies of half the embedding in float32; weights and moments of half the ranks
    assert found["loading_bytes_per_node"] == 2 * 4 * 151_936 * 4096 // 2
    assert found["checkpoint_bytes_per_node"] == pytest.approx(12 * weights / 2, rel=1e-3)
    # 36 layers × 8 heads × 128 × keys and values × 2 bytes
    assert found["kv_cache"]["sequence_bytes"] == 36 * 8 * 128 * 2 * 2 * 5120
    moved = {flow["name"]: flow for flow in found["traffic_per_step"]}
    assert moved["sync"]["network"] == weights  # each node lacks half of two bytes per weight
    assert moved["gather weights"]["seconds"] is None  # no rate is stated


def test_adapters_need_no_gradients_moments_or_copy_of_the_base(spec: Path) -> None:
    lora = ("--set", "lora.rank=16", "--set", 'reference.kl="k3"')
    found = planned(
        spec, "--gpu", "h100-80g", "--set", "train.learning_rate=1e-5", *lora, fits=True
    )
    phases = {phase["name"]: phase["parts"] for phase in found["phases"]}
    weights = 8_190_735_360
    shapes = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), *[(4096, 12_288)] * 3]
    adapters = 36 * 16 * sum(sum(shape) for shape in shapes)
    assert phases["optimizer"]["weights"] == pytest.approx(2 * weights + 4 * adapters, rel=1e-3)
    assert phases["optimizer"]["optimizer"] == pytest.approx(8 * adapters, rel=1e-3)
    assert phases["optimizer"]["gradients"] == pytest.approx(4 * adapters, rel=1e-3)
    assert "reference" not in phases
    assert found["checkpoint_bytes_per_node"] == pytest.approx(12 * adapters, rel=1e-3)
    assert found["sync"]["weights"] == 2 * adapters


def test_what_is_shown_fits_eighty_columns(spec: Path) -> None:
    (spec.parent / "model" / "config.json").write_text(
        json.dumps({**QWEN3_8B, "num_hidden_layers": 2})
    )
    small = ("rollout.prompts_per_step=1", "rollout.samples_per_prompt=4", 'model.dtype="float32"')
    changes = [part for change in small for part in ("--set", change)]
    shown = drpo("plan", spec, "--gpu", "cpu-50g", *changes)
    lines = shown.stdout.splitlines()
    assert shown.returncode == 1, shown.stderr
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.endswith("GiB")][:2] == ["start", "rollout"]
    assert lines[-2].startswith("does not fit: train needs ")
    assert lines[-1].startswith('most room: model.dtype="bfloat16" (+')
    assert lines[-1].endswith(" GiB, and then it fits)")


def test_advice_is_what_the_plan_says_of_the_changed_spec(spec: Path) -> None:
    options = ("--gpus", 8, "--gpu", "h100-80g", "--set", "train.gradient_checkpointing=false")
    found = planned(spec, *options, fits=False)
    best = found["advice"][0]
    assert found["tightest"] == "train"
    assert best["set"] == ["train.gradient_checkpointing=true"] and best["fits"]
    changed = planned(spec, *options[:-1], best["set"][0], fits=True)
    assert changed["free"] - found["free"] == best["room"]


def test_a_cache_on_a_cpu_that_cannot_hold_one_sequence(spec: Path) -> None:
    """vLLM would not start; the advice makes it, or the plan, fit."""
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    config = {**QWEN3_8B, **small, "max_position_embeddings": 2_000_000}
    (spec.parent / "model" / "config.json").write_text(json.dumps(config))
    spec.write_text(SPEC.replace("context_length = 5120\n", ""))
    advice = planned(spec, "--gpu", "cpu-200g", fits=False)["advice"]
    fitting = [one["set"] for one in advice if one["fits"]]
    assert fitting == [["rollout.context_length=5120"], ["rollout.cpu_cache_gib=16"]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--gpu", "h100-8g0"), "--gpu h100-8g0: is not a device; give one of h100-80g"),
        (("--gpu", "48g", "--gpus", "3"), "rollout.prompts_per_step: is 32, which 3 processes"),
        (("--set", "model.path=./nowhere"), "model.path: the model folder"),
        (("--set", "model.path=nobody/nothing"), "model.path: nobody/nothing has no configuration"),
    ],
)
def test_what_cannot_be_planned_is_said(spec: Path, options: tuple[str, ...], said: str) -> None:
    ran = drpo("plan", spec, *options, HF_HUB_OFFLINE="1")
    assert ran.returncode == 2
    assert said in ran.stderr and "Traceback" not in ran.stderr
