"""The study template: its specs plan, its commands are sound grids, its models are small."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

from drpo_cli.plan import make_plan
from drpo_cli.spec import load
from drpo_cli.tools.compare import grid, jobs, pages, summaries, tuning

STUDY = Path(__file__).parents[2] / "templates" / "study"
SPECS = sorted(path.name for path in STUDY.glob("*.toml") if path.name != "real.toml")
RUNS = {  # of candidates, and of cells that are reported
    "on-policy": (5, 20),
    "lag": (358, 280),
    "rare": (179, 140),
    "precision-engine": (0, 105),
    "precision-head-float32": (0, 35),
    "precision-head-model": (0, 35),
    "architecture": (0, 35),
    "real": (0, 27),
}
BASES = 5


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"study_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look their own module up
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def make_model() -> ModuleType:
    return module(STUDY / "make_model.py")


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_plans_and_its_model_has_a_recipe(name: str, make_model: ModuleType) -> None:
    spec = load(STUDY / name)
    plan = make_plan(spec, 1)
    assert plan.sequences_per_step % 16 == 0
    assert spec.train.schedule == "constant"
    assert spec.model.prepare == STUDY / "make_model.py"
    recipe, _, seed = Path(spec.model.path).name.rpartition("-")
    assert recipe in make_model.RECIPES and seed == "2"


@pytest.mark.parametrize("name", ["sums", "sums-x", "other-0"])
def test_a_name_without_a_recipe_or_a_seed_is_refused(name: str, make_model: ModuleType) -> None:
    with pytest.raises(SystemExit, match=f"no recipe for '{name}'; name it NAME-SEED"):
        make_model.main(Path("models", name))


@pytest.mark.parametrize("name", ["sums", "sums-moe", "rare"])
def test_a_model_is_small_and_its_tokenizer_loses_nothing(
    name: str, make_model: ModuleType
) -> None:
    recipe = make_model.RECIPES[name]
    problems = make_model.examples(recipe)
    tokenizer = make_model.make_tokenizer(problems)
    model = make_model.make_model(recipe, len(tokenizer))
    assert sum(weight.numel() for weight in model.parameters()) < 1_000_000
    spec = load(STUDY / recipe.spec)
    rollout = spec.rollout.config.model_dump()
    for problem in problems[:50]:
        prompt, answer = (tokenizer(text).input_ids for text in (problem.prompt, problem.answer))
        assert tokenizer.decode(prompt) == problem.prompt
        assert tokenizer.decode(answer) == problem.answer
        assert tokenizer.unk_token_id not in prompt + answer
        assert len(answer) < rollout["max_new_tokens"]
        assert len(prompt) + rollout["max_new_tokens"] <= rollout["context_length"]


def test_the_warm_start_scores_answers_of_any_length(make_model: ModuleType) -> None:
    pairs = [("12+34=", "640"), ("12+3=", "51")]
    problems = [make_model.Example(prompt, answer, 0.5) for prompt, answer in pairs]
    tokenizer = make_model.make_tokenizer(problems)
    torch.manual_seed(0)
    model = make_model.make_model(make_model.Recipe("run.toml"), len(tokenizer))
    with torch.no_grad():
        logp, weight = make_model.answer_logp(model, tokenizer, problems)
        alone, _ = make_model.answer_logp(model, tokenizer, problems[1:])
    assert weight.tolist() == [[0, 0, 0, 0, 0, 0.5, 1, 1, 1], [0, 0, 0, 0, 0.5, 1, 1, 0, 0]]
    assert logp[weight == 0].eq(0).all()
    assert logp[weight > 0].lt(0).all()
    torch.testing.assert_close(logp[1, :7], alone[0])


def test_rare_markers_share_all_probability(make_model: ModuleType) -> None:
    markers = make_model.RECIPES["rare"].markers
    assert sum(share for _, share in markers) == pytest.approx(1)
    rewards = module(STUDY / "rewards.py")
    assert tuple(marker for marker, _ in markers) == rewards.MARKERS
    assert dict(markers)[rewards.RARE] == 0.01
    scored = {text: (rewards.marked(text, "640"), rewards.right(text, "640")) for text in TEXTS}
    assert scored == TEXTS


TEXTS = {"*640": (1, 1), ".640": (0, 1), "640": (0, 0), "*641": (0, 0), "": (0, 0)}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """What `commands.sh` would run: a `drpo` earlier on the path only says how it was called."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "drpo").write_text('#!/bin/sh\nprintf "%s\\n" "$*"\n')
    (folder / "drpo").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", STUDY / "commands.sh"], env=environment, capture_output=True, text=True, check=True
    )
    return [shlex.split(line) for line in done.stdout.splitlines()]


def halving(candidates: int, rounds: int) -> int:
    """Runs of a cell that has so many candidates; the last one left is not run on."""
    if rounds == 0 or candidates == 1:
        return 0
    return candidates + halving((candidates + 1) // 2, rounds - 1)


def options(command: list[str], name: str) -> list[str]:
    return [command[i + 1] for i, word in enumerate(command) if word == name]


def test_every_command_is_a_grid_that_can_start(
    commands: list[list[str]], make_model: ModuleType
) -> None:
    found = {}
    for command in commands:
        assert command[0] == "compare"
        (path,) = (word for word in command if word.endswith(".toml"))
        axes, given = grid.parse_axes(options(command, "--vary")), options(command, "--set")
        for baseline in options(command, "--baseline"):
            assert summaries.choose_baseline(baseline, axes) is not None
        if path == "real.toml":
            (seeds,) = (grid.parse_seeds(text) for text in options(command, "--seeds"))
            cells = grid.make_cells(axes, load(STUDY / path))
            jobs.load_specs(STUDY / path, given, cells, 1)
            found[Path(options(command, "--out")[0]).name] = 0, len(cells) * len(seeds)
            continue
        assert "--halve" in command
        select, seeds = tuning.read_seeds(
            True, None, options(command, "--select-seeds")[0], options(command, "--report-seeds")[0]
        )
        bases = grid.parse_bases(options(command, "--bases")[0], axes, given)
        for model in bases:
            recipe, _, seed = Path(model).name.rpartition("-")
            assert recipe in make_model.RECIPES and seed.isdecimal()
        base = load(STUDY / path, [*given, f'model.path="{bases[0]}"'])
        tuned = tuning.parse_tuning(options(command, "--tune"), axes, base)
        cells = grid.make_cells(axes, base)
        candidates = grid.put_on_bases(tuning.make_candidates(cells, tuned), bases[:1])
        specs = jobs.load_specs(STUDY / path, given, candidates, 1)
        tuning.require_equal_tries(tuned, candidates, specs)
        tried = Counter(cell.point for cell in candidates).values()
        selecting = sum(halving(number, len(select) * len(bases)) for number in tried)
        runs = selecting, len(cells) * len(seeds) * len(bases)
        found[Path(options(command, "--out")[0]).name] = runs
        assert len(bases) == BASES
    assert found == RUNS


def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run(
        ["sh", STUDY / "commands.sh", "speed"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "there is no part speed\n")


def test_a_word_counts_by_its_first_letter_and_its_place() -> None:
    rewards = module(STUDY / "rewards.py")
    right = ("Hen Ox Duck", "hen, ox, duck and more", '1. "Hen"\n2. _Ox_ 3. Duck')
    assert [rewards.begin(text, "HOD") for text in right] == [1, 1, 1]
    some = {"Hen, duck, ox": 1, "Hen": 1, "The hen, ox, duck": 0, "Hen Ox": 2, "12": 0, "": 0}
    for text, words in some.items():
        assert rewards.begin(text, "HOD") == words / 3
    rows = module(STUDY / "words.py").load(None)
    assert len({row.prompt for row in rows}) == len(rows) == 600
    assert all(len(set(row.answer)) == 3 for row in rows)
    assert all([*row.answer] == re.findall(r"\b[A-Z]\b", row.prompt) for row in rows)


def test_only_known_real_models_are_made() -> None:
    real_model = module(STUDY / "real_model.py")
    with pytest.raises(SystemExit, match="no model 'gpt'; name the folder one of"):
        real_model.main(Path("models", "gpt"))
    assert Path(load(STUDY / "real.toml").model.path).name in real_model.SOURCES


def test_the_pages_show_the_committed_results() -> None:
    root = STUDY.parents[1]
    assert pages.main([str(root / "docs" / "study.md"), str(root / "README.md"), "--check"]) == 0
