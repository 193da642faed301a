"""The arithmetic of a run, and the limits of a model's config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drpo_cli.errors import UserError
from drpo_cli.plan import describe, lone_plan, make_plan
from drpo_cli.spec import Spec, load
from support.specs import HEAD

SPEC = f"""\
{HEAD}[[data]]
type = "./my.py:rows"
[rollout]
prompts_per_step = 8
samples_per_prompt = 6
max_new_tokens = 100
[[reward]]
type = "./my.py:good"
[[reward]]
type = "./my.py:short"
weight = 0.5
[train]
updates_per_rollout = 4
tokens_per_microbatch = 250
[eval]
every = 4
problems = 50
samples_per_prompt = 2
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "my.py").write_text("def rows(): ...\ndef good(): ...\ndef short(): ...\n")
    path = tmp_path / "run.toml"
    path.write_text(SPEC)
    return path


def with_model(path: Path, config: object, *overrides: str) -> Spec:
    folder = path.parent / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return load(path, ["model.path=model", *overrides])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_work_divides_over_the_processes(path: Path, world: int) -> None:
    plan = make_plan(load(path), world)
    assert plan.run_folder == path.parent / "runs" / "test"
    assert plan.prompts_per_rank * world == 8
    assert plan.sequences_per_step == 48
    assert plan.sequences_per_update == 12
    assert plan.sequences_per_update_per_rank * world == 12
    assert plan.total_updates == 40
    assert plan.context is None


@pytest.mark.parametrize(
    ("world", "tokens", "expected"),
    [(1, 100, 6), (1, 250, 12), (1, 251, 12), (1, 10, 1), (2, 100, 3), (4, 100, 2)],
)
def test_microbatches(path: Path, world: int, tokens: int, expected: int) -> None:
    assert make_plan(load(path), world).microbatches(tokens) == expected


def test_work_that_does_not_divide(path: Path) -> None:
    with pytest.raises(UserError, match=r"prompts_per_step: is 8, which 3 processes cannot share"):
        make_plan(load(path), 3)
    with pytest.raises(UserError, match=r"updates_per_rollout: is 4; must divide the 6 samples"):
        make_plan(load(path), 8)


def test_the_rows_of_a_description(path: Path) -> None:
    spec = with_model(path, {"max_position_embeddings": 200})
    rows = dict(describe(make_plan(spec, 2)))
    assert rows["one step"] == "8 prompts × 6 samples = 48 sequences"
    assert rows["updates per step"] == "4 of 12 sequences, at most 1,200 response tokens"
    assert rows["micro-batches per update"].startswith("3 when every response is full-length, to 6")
    assert rows["longest sequence"] == "100 new tokens after the prompt, 200 in all"
    assert rows["whole run"] == "10 steps × 4 updates = 40 updates"
    assert rows["held-out evaluation"] == "50 problems × 2 samples = 100 sequences, 4 times"
    assert rows["processes"] == "2 × 4 prompts"
    assert rows["checkpoints"].endswith("3 kept and the best; on a GPU training goes on meanwhile")
    assert rows["rewards"].splitlines() == [
        "good: in 2 processes per rank, 30 s per call, on error stop",
        "0.5 × short: in 2 processes per rank, 30 s per call, on error stop",
    ]


@pytest.mark.parametrize(
    ("every", "times"), [(0, "2 times"), (1, "11 times"), (5, "3 times"), (50, "2 times")]
)
def test_evaluations_are_before_the_first_step_every_few_and_after_the_last(
    path: Path, every: int, times: str
) -> None:
    rows = dict(describe(make_plan(load(path, [f"eval.every={every}"]), 1)))
    assert rows["held-out evaluation"].endswith(times)


@pytest.mark.parametrize(
    ("config", "overrides", "context"),
    [
        ({"max_position_embeddings": 200}, [], 200),
        ({"text_config": {"max_position_embeddings": 300}}, [], 300),
        ({"max_position_embeddings": 200}, ["rollout.context_length=150"], 150),
        ({}, [], None),
        ({}, ["rollout.context_length=150"], 150),
    ],
)
def test_the_context(path: Path, config: object, overrides: list[str], context: int | None) -> None:
    assert make_plan(with_model(path, config, *overrides), 1).context == context


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rollout.context_length=201", r"rollout\.context_length: is 201; the model in .* 200 tok"),
        ("rollout.max_new_tokens=200", r"rollout\.max_new_tokens: is 200; must be below the 200"),
        ("eval.max_new_tokens=200", r"eval\.max_new_tokens: is 200; must be below the 200 tokens"),
    ],
)
def test_a_context_that_is_too_short(path: Path, override: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        make_plan(with_model(path, {"max_position_embeddings": 200}, override), 1)


DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
LONG = {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 200}


@pytest.mark.parametrize(
    ("config", "longest", "words"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 400, "× 2, the factor of its rope"),
        ({"rope_scaling": DYNAMIC}, 200, "its rope, 'dynamic', which changes its frequencies"),
        ({"text_config": {"rope_parameters": DYNAMIC}}, 200, "its rope, 'dynamic'"),
        ({"rope_scaling": LONG, "original_max_position_embeddings": 150}, 150, "rope, 'longrope'"),
        ({"rope_parameters": {**LONG, "original_max_position_embeddings": 150}}, 150, "'longrope'"),
        (
            {"rope_parameters": YARN},
            200,
            "'yarn', which reaches 800 if config.json says so",
        ),
        ({"rope_parameters": {**YARN, "rope_type": "llama3"}}, 200, "rope is 'llama3'"),
        ({"rope_scaling": "odd"}, 200, "max_position_embeddings"),
    ],
)
def test_a_context_beyond_the_rope(
    path: Path, config: dict[str, object], longest: int, words: str
) -> None:
    """Dynamic and long ropes reach their original length: engine and trainer differ beyond."""
    config = {"max_position_embeddings": 200, **config}
    assert make_plan(with_model(path, config), 1).context == longest
    overrides = ["model.path=model", f"rollout.context_length={longest + 1}"]
    with pytest.raises(UserError, match=rf"context_length: is {longest + 1};") as caught:
        make_plan(load(path, overrides), 1)
    assert words in str(caught.value)
    assert "transformers" not in str(caught.value)


def test_a_model_folder_that_does_not_exist(path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.path: the model folder .*/gone does not exist"):
        make_plan(load(path, ["model.path=./gone"]), 1)
    with pytest.raises(UserError, match=r"model\.prepare: there is no file .*/make\.py"):
        make_plan(load(path, ["model.path=gone", "model.prepare=make.py"]), 1)
    (path.parent / "make.py").write_text("")
    spec = load(path, ["model.path=gone", "model.prepare=make.py"])
    assert make_plan(spec, 1).context is None
    (path.parent / "gone").mkdir()
    assert make_plan(spec, 1).context is None


def test_a_folder_that_is_not_a_model(path: Path) -> None:
    (path.parent / "model").mkdir()
    with pytest.raises(UserError, match=r"model has no config\.json"):
        make_plan(load(path, ["model.path=model"]), 1)
    for text in ("{", "3", "[]"):
        (path.parent / "model" / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"is not the config\.json of a model"):
            make_plan(load(path, ["model.path=model"]), 1)


@pytest.mark.parametrize(
    ("overrides", "world", "mesh"),
    [
        ([], 4, (1, 4)),
        (["parallel.shard=2"], 4, (2, 2)),
        (["parallel.shard=2"], 8, (4, 2)),
        (["parallel.replicate=4"], 8, (4, 2)),
        (["parallel.shard=4", "parallel.replicate=1"], 4, (1, 4)),
    ],
)
def test_the_mesh(path: Path, overrides: list[str], world: int, mesh: tuple[int, int]) -> None:
    plan = make_plan(load(path, ["train.updates_per_rollout=2", *overrides]), world)
    assert (plan.replicate, plan.shard) == mesh
    shown = f"{mesh[0]} copies, each over {mesh[1]} processes"
    assert dict(describe(plan)).get("weights") == (shown if mesh[0] > 1 else None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["parallel.shard=3"], r"parallel\.shard: is 3; must divide the 4 processes of the run;"),
        (["parallel.shard=8"], r"parallel\.shard: is 8; must divide the 4 processes"),
        (["parallel.replicate=3"], r"parallel\.replicate: is 3; must divide the 4 processes"),
        (["parallel.replicate=8"], r"parallel\.replicate: is 8; must divide the 4 processes"),
        (
            ["parallel.shard=2", "parallel.replicate=4"],
            r"parallel\.shard: is 2; 4 × 2 are 8 processes, and the run has 4; leave one of",
        ),
        (
            ["rollout.tensor_parallel=3"],
            r"rollout\.tensor_parallel: is 3; must divide the 4 processes of the run",
        ),
    ],
)
def test_a_mesh_that_does_not_match_the_processes(
    path: Path, overrides: list[str], message: str
) -> None:
    spec = load(path, overrides)
    with pytest.raises(UserError, match=message):
        make_plan(spec, 4)
    assert lone_plan(spec).world == 1  # sampling alone needs no mesh


SIXTEEN = {"num_attention_heads": 16, "intermediate_size": 64, "max_position_embeddings": 400}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_key_value_heads": 2}, None),  # two ranks share each
        ({"num_key_value_heads": 6}, "6 key heads"),
        ({"num_attention_heads": 6}, "6 attention heads"),
        ({"intermediate_size": 30}, "30 numbers per token in an MLP"),
        ({"moe_intermediate_size": 30}, "30 numbers per token in an expert"),
        ({"text_config": {"num_attention_heads": 6}}, "6 attention heads"),
    ],
)
def test_tensor_parallelism_cuts_the_model_evenly(
    path: Path, config: dict[str, object], message: str | None
) -> None:
    spec = with_model(path, {**SIXTEEN, **config}, "rollout.tensor_parallel=4")
    if message is None:
        assert dict(describe(make_plan(spec, 4)))["engines"] == "1, each over 4 processes"
        return
    with pytest.raises(UserError) as caught:
        make_plan(spec, 4)
    assert "rollout.tensor_parallel: is 4; cannot cut the model in" in str(caught.value)
    assert f"it has {message}; choose" in str(caught.value)


def test_an_engine_without_tensor_parallelism_refuses_it(path: Path) -> None:
    with pytest.raises(UserError, match=r"rollout\.tensor_parallel: is not a known key"):
        load(path, ["rollout.engine=transformers", "rollout.tensor_parallel=2"])
