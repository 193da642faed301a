"""The template paper: one spec per setting of the DRPO paper, with the values of the recipe."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.plan import make_plan
from drpo_cli.spec import Spec, load
from drpo_cli.spec.dumping import document
from drpo_cli.tools.memory.engine import parse_device
from drpo_cli.tools.memory.estimate import estimate

TEMPLATE = Path(__file__).parents[2] / "templates" / "paper"
SETTINGS = sorted(path.name for path in TEMPLATE.glob("*.toml"))
PRECISION = {("rollout", "quantization"), ("train", "float8")}
OWN = {("run", "name"), ("run", "folder"), ("model", "path"), ("rollout", "tensor_parallel")}


def setting(file: str, *overrides: str) -> Spec:
    return load(TEMPLATE / file, overrides)


def leaves(value: Any, key: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, dict):
        return {key: value}
    return {k: v for name, one in value.items() for k, v in leaves(one, (*key, name)).items()}


def plan_commands() -> list[list[str]]:
    lines = (TEMPLATE / "README.md").read_text(encoding="utf-8").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("drpo plan ")]


def option(words: list[str], name: str, default: str) -> str:
    return words[words.index(name) + 1] if name in words else default


def overrides(words: list[str]) -> list[str]:
    return [
        words[i + 1].replace("shapes/", f"{TEMPLATE}/shapes/")
        for i, word in enumerate(words)
        if word == "--set"
    ]


def test_there_are_six_and_the_readme_names_each() -> None:
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    assert len(SETTINGS) == 6
    assert all(f"`{file}`" in readme for file in SETTINGS)


@pytest.mark.parametrize("file", SETTINGS)
def test_a_setting_has_the_values_of_the_recipe(file: str) -> None:
    spec = setting(file)
    rollout, train, evaluation = spec.rollout.config, spec.train, spec.eval
    assert (rollout.prompts_per_step, rollout.samples_per_prompt) == (64, 8)
    assert (rollout.max_new_tokens, rollout.temperature) == (8192, 1.0)
    assert (rollout.top_p, rollout.top_k, rollout.min_p) == (1.0, 0, 0.0)
    assert make_plan(spec, 8).sequences_per_update == 128
    assert (train.learning_rate, train.schedule, train.warmup_updates) == (1e-6, "constant", 0)
    assert (train.betas, train.weight_decay, train.max_gradient_norm) == ((0.9, 0.999), 0.01, 1.0)
    assert (train.reduction, train.horizon, train.overlong) == ("fixed_horizon", 8192, "keep")
    assert (spec.advantage.type, spec.objective.type) == ("group_mean", "drpo")
    assert [reward.type for reward in spec.reward] == ["math_verify"]
    assert (evaluation.problems, evaluation.samples_per_prompt, evaluation.every) == (60, 16, 10)
    assert (evaluation.temperature, evaluation.max_new_tokens) == (None, None)  # as in training
    assert len(spec.eval_data) == 2
    (warning,) = spec.warnings  # the one that says which regime 12.5 is
    assert warning.key == "objective.delta"


@pytest.mark.parametrize("file", SETTINGS)
def test_settings_differ_in_model_and_precision_only(file: str) -> None:
    first, own = (leaves(document(setting(one))) for one in ("run.toml", file))
    different = {key for key in {*first, *own} if first.get(key) != own.get(key)}
    assert different <= OWN | PRECISION
    expected = {
        "qwen3-30b-fp8-rollout.toml": {("rollout", "quantization")},
        "qwen3-30b-fp8.toml": PRECISION,
    }
    assert different & PRECISION == expected.get(file, set())


@pytest.mark.parametrize("file", SETTINGS)
def test_the_lower_bound_is_one_comment_away(file: str) -> None:
    text = (TEMPLATE / file).read_text(encoding="utf-8")
    assert "# delta = 0.2\n" in text
    assert setting(file, "objective.delta=0.2").warnings == ()


@pytest.mark.parametrize("words", plan_commands(), ids=lambda words: str(words[0]))
def test_the_readme_plans_on_devices_that_divide_the_work(words: list[str]) -> None:
    nodes, gpus = int(option(words, "--nodes", "1")), int(option(words, "--gpus", "1"))
    plan = make_plan(setting(words[0], *overrides(words)), nodes * gpus)
    assert plan.context == 10_240


def test_every_setting_is_planned_in_the_readme() -> None:
    assert {words[0] for words in plan_commands()} == set(SETTINGS)


def test_the_smallest_fits_as_the_readme_says() -> None:
    words = next(words for words in plan_commands() if words[0] == "r1-distill-1.5b.toml")
    gpus = int(option(words, "--gpus", "1"))
    device = parse_device(option(words, "--gpu", "cpu"), gpus)
    found = estimate(make_plan(setting(words[0], *overrides(words)), gpus), device, 1)
    assert found.fits
    assert 1.7e9 < found.parameters < 1.8e9


@pytest.mark.parametrize("folder", sorted(TEMPLATE.glob("shapes/*")), ids=lambda path: path.name)
def test_the_shapes_are_configurations_alone(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert re.fullmatch(r"Qwen\w+", config["architectures"][0])
