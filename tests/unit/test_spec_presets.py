"""Presets: which keys they set, which keys win, and where mistakes are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli

from drpo_cli.plan import describe, make_plan
from drpo_cli.plugins import Selected
from drpo_cli.spec import Spec, dump, load
from drpo_cli.spec.presets import KEY, PRESETS, SOURCES, expand, summary
from support.specs import GOOD, plugin_folder, problem, problems, write

PAGE = Path(__file__).parents[2] / "docs" / "presets.md"
BARE = GOOD.partition("[objective]")[0]
NEEDED = {"ppo": "[critic]\n"}

by_name = pytest.mark.parametrize("name", PRESETS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return plugin_folder(tmp_path)


def text_of(name: str, more: str = "") -> str:
    return f'preset = "{name}"\n{BARE}{NEEDED.get(name, "")}{more}'


def value(spec: Spec, section: str, key: str) -> Any:
    part = getattr(spec, section)
    if isinstance(part, Selected):
        return part.type if key == "type" else getattr(part.config, key)
    return getattr(part, key)


@by_name
def test_every_preset_loads_and_sets_its_keys(folder: Path, name: str) -> None:
    spec = load(write(folder, text_of(name)))
    assert spec.preset == name
    for section, keys in PRESETS[name].items():
        assert {key: value(spec, section, key) for key in keys} == keys
    assert {"objective", "advantage", "train"} <= PRESETS[name].keys()
    assert {"type"} <= PRESETS[name]["objective"].keys() & PRESETS[name]["advantage"].keys()
    assert "reduction" in PRESETS[name]["train"]


@by_name
def test_every_preset_has_a_source_and_a_row_with_all_its_keys(name: str) -> None:
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |"))
    assert SOURCES[name] and "https://arxiv.org/abs/" in row
    assert f"\n**`{name}`.**" in PAGE.read_text()
    for section, keys in PRESETS[name].items():
        for key, given in keys.items():
            heading = f"{section}.{key}" if section in ("train", "rollout") else key
            own_column = key in ("type", "reduction")
            shown = f"{given}" if isinstance(given, float | int) else f"`{given}`"
            assert (shown if own_column else f"`{heading}` {shown}") in row


@by_name
def test_a_dumped_preset_is_written_out(folder: Path, name: str) -> None:
    spec = load(write(folder, text_of(name)))
    again = load(write(folder, dump(spec)))
    assert again == spec and KEY not in tomli.loads(dump(spec))
    assert (spec.preset, again.preset) == (name, None)


def test_keys_of_the_spec_win(folder: Path) -> None:
    own = "[objective]\nepsilon_high = 0.28\n[train]\nlearning_rate = 1e-5\n"
    spec = load(write(folder, text_of("grpo", own)), ["train.reduction=token_mean"])
    assert spec.objective.type == "ppo_clip"
    assert value(spec, "objective", "epsilon_low") == 0.2
    assert value(spec, "objective", "epsilon_high") == 0.28
    assert (spec.train.reduction, spec.train.learning_rate) == ("token_mean", 1e-5)
    assert summary(spec) == (
        "grpo: objective ppo_clip (epsilon_low 0.2, epsilon_high 0.28), advantage group_norm, "
        "train.reduction token_mean; set by the spec: objective.epsilon_high (preset: 0.2), "
        "train.reduction (preset: sequence_mean)"
    )


def test_a_check_shows_what_a_preset_sets(folder: Path) -> None:
    spec = load(write(folder, text_of("rloo")))
    shown = "rloo: objective none, advantage rloo, train.reduction fixed_horizon, train.updates"
    assert dict(describe(make_plan(spec, 1)))["preset"].startswith(shown)
    assert "preset" not in dict(describe(make_plan(load(write(folder)), 1)))


def test_a_spec_may_name_the_same_type_as_its_preset(folder: Path) -> None:
    spec = load(write(folder, text_of("grpo", '[advantage]\ntype = "group_norm"\n')))
    assert spec.advantage.type == "group_norm" and spec.objective.type == "ppo_clip"


def test_a_contradicting_type_is_reported_once_at_its_line(folder: Path) -> None:
    line = problem(folder, f'preset = "grpo"\n{GOOD}')
    assert line.startswith(
        "run.toml:22:8: objective.type: is 'drpo', but preset 'grpo' says 'ppo_clip'; "
        "remove one of the two"
    )
    own = '[advantage]\ntype = "rloo"\n[objective]\ntype = "none"\n'
    lines = problems(folder, text_of("grpo", own))
    assert [line.partition(", but")[0] for line in lines] == [
        "run.toml:22:8: advantage.type: is 'rloo'",
        "run.toml:24:8: objective.type: is 'none'",
    ]


def test_the_advice_about_a_contradiction_works(folder: Path) -> None:
    assert "--set 'objective={}' empties" in problem(folder, GOOD, "preset=gspo")
    emptied = load(write(folder), ["preset=gspo", "objective={}"])
    assert (emptied.preset, emptied.objective.type) == ("gspo", "gspo")

    path = write(folder, text_of("gspo"))
    line = problem(folder, text_of("gspo"), "objective.type=drpo")
    assert line.startswith("--set objective.type=drpo: objective.type: is 'drpo', but preset")
    assert "--set preset= removes the preset" in line
    without = load(path, ["objective.type=drpo", "preset="])
    assert (without.preset, without.objective.type) == (None, "drpo")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('"dappo"', "preset: there is no preset 'dappo'; did you mean 'dapo' or 'ppo'? there are"),
        ('"x"', "preset: there is no preset 'x'; there are: ppo, grpo, dapo,"),
        ("3", "preset: is 3; must be a name in quotes: ppo, grpo,"),
        ('["ppo"]', "preset: is ['ppo']; must be a name in quotes"),
    ],
)
def test_an_unknown_preset(folder: Path, written: str, expected: str) -> None:
    assert problem(folder, f"preset = {written}\n{GOOD}").startswith(f"run.toml:1:10: {expected}")
    assert problem(folder, GOOD, f"preset={written}").startswith(
        f"--set preset={written}: {expected}"
    )


def test_a_preset_in_the_wrong_place(folder: Path) -> None:
    line = problem(folder, GOOD.replace("steps = 10", 'steps = 10\npreset = "grpo"'))
    assert line == (
        "run.toml:4:1: run.preset: is not a key of [run]; it is a key of the file itself, "
        "above the first section: move it there"
    )
    assert "did you mean 'preset'?" in problem(folder, f'prest = "grpo"\n{GOOD}')


@pytest.mark.parametrize("written", ["objective = 3\n", "[[objective]]\n"])
def test_a_section_that_is_not_a_table(folder: Path, written: str) -> None:
    text = f'preset = "grpo"\n{BARE}{written}' if "[" in written else f"{written}{text_of('grpo')}"
    assert "objective: must be a table" in problem(folder, text)


def test_a_mistake_in_what_a_preset_sets_points_at_the_preset(folder: Path) -> None:
    text = f"# a comment\n{text_of('drpo_released', '[objective]')}"
    (warning,) = map(str, load(write(folder, text)).warnings)
    assert "run.toml:2:10: objective.delta (from the preset): is 12.5" in warning
    (warning,) = map(
        str, load(write(folder, BARE), ["preset=drpo_released", "objective={}"]).warnings
    )
    assert warning.startswith("--set preset=drpo_released: objective.delta (from the preset): is")
    (warning,) = map(str, load(write(folder, text), ["objective.delta=5"]).warnings)
    assert warning.startswith("--set objective.delta=5: objective.delta: is 5")


def test_a_rule_that_a_preset_breaks_points_at_the_key_it_is_about(folder: Path) -> None:
    text = text_of("grpo").replace("samples_per_prompt = 4", "samples_per_prompt = 1")
    assert problem(folder, text).startswith("run.toml:15:22: rollout.samples_per_prompt: is 1;")


def test_expanding_leaves_the_presets_alone() -> None:
    before = repr(PRESETS)
    document: dict[str, Any] = {"preset": "grpo", "objective": {"epsilon_low": 0.1}}
    assert expand(document).keys >= {("objective", "type"), ("train", "reduction")}
    document["objective"]["type"] = document["advantage"]["type"] = "changed"
    assert repr(PRESETS) == before and KEY not in document
    assert expand({"preset": ""}) == expand({})


def test_a_group_baseline_needs_a_group(folder: Path) -> None:
    text = BARE.replace("samples_per_prompt = 4", "samples_per_prompt = 1")
    batch = text + '[advantage]\ntype = "batch_norm"\n'
    assert load(write(folder, batch)).advantage.type == "batch_norm"
    line = problem(folder, batch + 'baseline = "group"\n')
    assert "samples_per_prompt: is 1; must be at least 2 for advantage 'batch_norm'" in line
