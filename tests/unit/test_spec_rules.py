"""Rules about sampling, training and methods: each is broken once, and points at the right key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drpo_cli.spec import Spec, SpecError, load
from drpo_cli.spec.problems import Problem
from support.specs import DATA, DRPO, HEAD, REWARD, ROLLOUT, problem, problems, warnings, write

SPEC = f"""\
{HEAD}[[data]]
type = "./my.py:rows"
{ROLLOUT}context_length = 64
[[reward]]
type = "./my.py:good"
weight = 1.0
[[reward]]
type = "./my.py:short"
weight = 0.0
[advantage]
type = "group_mean"
{DRPO}[train]
updates_per_rollout = 4
warmup_updates = 40
"""
PLAIN = f"""\
{HEAD}{DATA}{ROLLOUT}{REWARD}[advantage]
type = "group_mean"
[objective]
type = "drpo"
[train]
updates_per_rollout = 2
"""
GAE = PLAIN.replace("group_mean", "gae") + "[critic]\n"
GSPO = PLAIN.replace('"drpo"', '"gspo"')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    functions = ("rows", "good", "short", "zero")
    (tmp_path / "my.py").write_text("".join(f"def {name}(*_): ...\n" for name in functions))
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(SPEC, id="the spec used here"),
        pytest.param(PLAIN, id="the plain one"),
        pytest.param(
            SPEC.replace('"drpo"\ndelta = 0.2', '"spo"\nepsilon = 12.5'),
            id="a large bound of another objective",
        ),
        pytest.param(
            SPEC.replace('"group_mean"', '"./my.py:zero"').replace("prompt = 4", "prompt = 1"),
            id="a group of one without a group baseline",
        ),
        pytest.param(GAE, id="gae with an empty critic"),
        pytest.param(GAE + "warmup_steps = 9\nvalue_clip = 0", id="options of a critic"),
        pytest.param(GSPO, id="gspo"),
        pytest.param(GSPO + '[reference]\nkl = "k3"', id="gspo near a reference"),
        pytest.param(PLAIN + '[reference]\nkl = "k1"', id="k1"),
        pytest.param(PLAIN + '[teacher]\npath = "owner/model"', id="a teacher"),
        pytest.param(
            PLAIN.replace("prompt = 4", "prompt = 1") + '[teacher]\npath = "a/b"\nrewards = false',
            id="a group of one with a teacher alone",
        ),
        pytest.param(GAE + 'warmup_steps = 9\n[teacher]\npath = "a/b"', id="critic and teacher"),
        pytest.param(GSPO + '[reference]\nkl = "k1"', id="k1 of whole responses"),
        pytest.param(PLAIN + 'anchor = "trainer"\nimportance_cap = 2.0', id="a cap"),
        pytest.param(
            PLAIN + 'gradient_checkpointing = true\ncheckpointing_keeps = "products"', id="products"
        ),
        pytest.param(PLAIN + 'reduction = "fixed_horizon"\nhorizon = 99', id="a horizon"),
        pytest.param(PLAIN + 'reduction = "fixed_horizon"', id="the default horizon"),
        pytest.param(PLAIN + 'overlong = "soft"\noverlong_buffer = 16', id="a buffer"),
        pytest.param(
            PLAIN.replace("tokens = 16", "tokens = 16\ndynamic_sampling_rounds = 2"),
            id="dynamic sampling",
        ),
    ],
)
def test_a_spec_that_breaks_no_rule(folder: Path, text: str) -> None:
    assert warnings(folder, text) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("max_new", "top_p = 0.95\nmax_new", "11:9: rollout.top_p: is 0.95; must stay 1 in train"),
        ("max_new", "top_k = 20\nmax_new", "11:9: rollout.top_k: is 20; must stay 0 in training"),
        ("max_new", "min_p = 0.1\nmax_new", "11:9: rollout.min_p: is 0.1; must stay 0 in train"),
        ("prompt = 4", "prompt = 1", "10:22: rollout.samples_per_prompt: is 1; must be at least 2"),
        ("rollout = 4", "rollout = 5", "25:23: train.updates_per_rollout: is 5; must divide the"),
        ("weight = 1.0", "weight = 0", "15:10: reward[0].weight: is 0, and so is every other"),
        ("my.py:short", "my.py:good", "17:8: reward[1].name: is 'good', like the name of an"),
        ("updates = 40", "updates = 41", "26:18: train.warmup_updates: is 41; must be at most 40"),
        ("length = 64", "length = 16", "11:18: rollout.max_new_tokens: is 16; must be below"),
        ("[train]", "[eval]\nmax_new_tokens = 99\n[train]", "25:18: eval.max_new_tokens: is 99"),
    ],
)
def test_a_changed_line_breaks_a_rule(folder: Path, old: str, new: str, expected: str) -> None:
    assert old in SPEC
    assert problem(folder, SPEC.replace(old, new, 1)).startswith(f"run.toml:{expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            GAE.replace('"drpo"', '"gspo"'),
            "17:8: objective.type: is 'gspo', which works on whole responses, and "
            "advantage 'gae' gives every token its own",
        ),
        (
            PLAIN.replace("group_mean", "gae"),
            "15:8: advantage.type: is 'gae', which needs a critic; add a [critic] section",
        ),
        (
            PLAIN + "[critic]\nwarmup_steps = 1",
            "20:1: critic: has no effect with advantage 'group_mean'; remove the section",
        ),
        (
            PLAIN + "importance_cap = 2.0",
            "20:1: train.importance_cap: has no effect with anchor 'engine'",
        ),
        (
            PLAIN + 'checkpointing_keeps = "products"',
            "20:1: train.checkpointing_keeps: has no effect without gradient checkpointing",
        ),
        (
            PLAIN + "[checkpoint]\nevery = 0\nasynchronous = true",
            "22:1: checkpoint.asynchronous: has no effect with checkpoint.every = 0",
        ),
        (
            PLAIN.replace("[[data]]", 'dtype = "float32"\n[[data]]') + 'attention = "varlen"',
            "21:13: train.attention: is 'varlen', whose kernel computes in bfloat16 only",
        ),
        (PLAIN + "horizon = 9", "20:1: train.horizon: has no effect with reduction 'token_mean'"),
        (
            PLAIN + 'reduction = "sequence_mean"\nhorizon = 9',
            "21:1: train.horizon: has no effect with reduction 'sequence_mean'",
        ),
        (
            PLAIN + "overlong_buffer = 4",
            "20:1: train.overlong_buffer: has no effect with overlong 'keep'",
        ),
        (
            PLAIN + 'overlong = "soft"\noverlong_buffer = 17',
            "21:19: train.overlong_buffer: is 17; must be at most rollout.max_new_tokens, which "
            "is 16",
        ),
        (
            GAE.replace("prompt = 4", "prompt = 1\ndynamic_sampling_rounds = 1"),
            "11:27: rollout.dynamic_sampling_rounds: replaces groups whose rewards are all equal, "
            "and the rewards of a group of one always are",
        ),
        (
            GAE + "warmup_steps = 10",
            "21:16: critic.warmup_steps: is 10; must be below run.steps, which is 10",
        ),
        (PLAIN + "importance_cap = 0", "20:18: train.importance_cap: is 0; must be above 0"),
        (PLAIN + "entropy_bonus = -0.1", "20:17: train.entropy_bonus: is -0.1; must be at least"),
        (PLAIN + "horizon = 0", "20:11: train.horizon: is 0; must be at least 1"),
        (PLAIN + 'anchor = "reference"', "20:10: train.anchor: is 'reference'; must be 'engine'"),
        (PLAIN + 'overlong = "drop"', "20:12: train.overlong: is 'drop'; must be 'keep'"),
        (PLAIN + "overlong_buffer = 0", "20:19: train.overlong_buffer: is 0; must be at least 1"),
        (PLAIN + "[reference]\ncoefficient = 0", "21:15: reference.coefficient: is 0; must be ab"),
        (PLAIN + '[reference]\nkl = "k4"', "21:6: reference.kl: is 'k4'; must be 'k1', 'k2' or"),
        (GAE + "learning_rate = 0", "21:17: critic.learning_rate: is 0; must be above 0"),
        (
            GAE.replace("rollout = 2", "rollout = 2\nwarmup_updates = 3") + "warmup_steps = 9",
            "20:18: train.warmup_updates: is 3; must be at most 2, the updates of the whole run "
            "(run.steps × train.updates_per_rollout), without those of critic.warmup_steps",
        ),
        (GAE + "warmup_steps = -1", "21:16: critic.warmup_steps: is -1; must be at least 0"),
        (GAE + "value_clip = -0.1", "21:14: critic.value_clip: is -0.1; must be at least 0"),
    ],
)
def test_methods_that_do_not_go_together(folder: Path, text: str, expected: str) -> None:
    assert problem(folder, text).startswith(f"run.toml:{expected}")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("delta = 0.2", "delta = 1", "23:9: objective.delta: is 1: |π−μ| ≤ 1, so every gradient"),
        ("delta = 0.2", "delta = 12.5", "[1−1/δ, 1+1/δ] = [0.92, 1.08]"),
        ('"drpo"\ndelta = 0.2', '"none"', "24:23: train.updates_per_rollout: is 4, and objective"),
        ("[train]", "[train]\nfinal_learning_rate = 1e-7", "25:1: train.final_learning_rate: has"),
        (
            "steps = 10",
            "steps = 10\nrestarts = 2",
            "run.restarts: starts the run again from st",
        ),
    ],
)
def test_a_warning(folder: Path, old: str, new: str, expected: str) -> None:
    assert old in SPEC
    (line,) = warnings(folder, SPEC.replace(old, new, 1))
    assert expected in line


def test_a_critic_learns_from_groups_that_dynamic_sampling_drops(folder: Path) -> None:
    (line,) = warnings(folder, GAE, "rollout.dynamic_sampling_rounds=2")
    start = "--set rollout.dynamic_sampling_rounds=2: rollout.dynamic_sampling_rounds: drops groups"
    assert line.startswith(start)


def test_the_override_that_breaks_a_rule_is_named(folder: Path) -> None:
    line = problem(
        folder,
        SPEC.replace("rollout = 4", "rollout = 8"),
        "run.steps=11",
        "rollout.prompts_per_step=7",
        "eval.every=1",
    )
    start = "--set rollout.prompts_per_step=7: train.updates_per_rollout: is 8; must divide the 7 ×"
    assert line.startswith(start)
    line = problem(folder, GAE, "objective.type=gspo")
    assert line.startswith("--set objective.type=gspo: objective.type: is 'gspo'")


def test_an_override_adds_a_critic(folder: Path) -> None:
    text = PLAIN.replace("group_mean", "gae")
    assert warnings(folder, text, "critic.learning_rate=1e-4") == []


def test_rules_are_checked_together_with_keys_that_are_wrong(folder: Path) -> None:
    text = SPEC.replace("max_new", "top_p = 0.9\nmax_new").replace("context_length = 64", "x = 1")
    text = text.replace("./my.py:good", "./my.py:gone").replace("./my.py:short", "./my.py:gone")
    keys = [line.split(": ")[1] for line in problems(folder, text)]
    assert keys == ["rollout.top_p", "rollout.x", "reward[0].type", "reward[1].type"]


WRONG: dict[str, tuple[str, str, Callable[[Spec], object]]] = {
    "a wrong value": ("steps = 10", "steps = -1", lambda spec: spec.run.steps),
    "an unknown plugin": ('"drpo"', '"drop"', lambda spec: spec.objective.plugin),
    "a misspelt section": ("[train]", "[trian]", lambda spec: spec.train),
    "a misspelt key": ("updates_per", "update_per", lambda spec: spec.train.updates_per_rollout),
}


@pytest.mark.parametrize(("old", "new", "read"), WRONG.values(), ids=WRONG)
def test_a_rule_ends_at_a_key_that_is_wrong_itself(
    folder: Path, old: str, new: str, read: Callable[[Spec], object]
) -> None:
    ended = []

    def rule(spec: Spec) -> Iterator[Problem]:
        yield Problem(("run",), "before")
        ended.append(read(spec))
        yield Problem(("run",), "after")

    path = write(folder, SPEC.replace(old, new, 1))
    with pytest.raises(SpecError) as caught:
        load(path, checks=[rule])
    messages = [one.message for one in caught.value.problems]
    assert len(messages) == 2 and "before" in messages and not ended


@pytest.mark.parametrize("steps", ["10", "0"])
def test_a_bug_in_a_rule_is_not_hidden(folder: Path, steps: str) -> None:
    """Neither in a good spec nor in one with a wrong key."""

    def misspelt(spec: Spec) -> Iterator[Problem]:
        yield Problem(("train",), str(spec.train.learning_rates))  # type: ignore[attr-defined]

    def of_none(spec: Spec) -> Iterator[Problem]:
        yield Problem(("train",), spec.preset.upper())  # type: ignore[union-attr]

    path = write(folder, SPEC.replace("steps = 10", f"steps = {steps}"))
    with pytest.raises(AttributeError, match="no attribute 'learning_rates'"):
        load(path, checks=[misspelt])
    with pytest.raises(AttributeError, match="no attribute 'upper'"):
        load(path, checks=[of_none])
