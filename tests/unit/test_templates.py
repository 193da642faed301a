"""The templates reasoning, math and code: specs without a doubt, data that fits their rewards."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest

from drpo_cli.data import reasoning_gym
from drpo_cli.data.pipeline.split import Split, split
from drpo_cli.errors import UserError
from drpo_cli.plan import make_plan
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.spec import Spec, load
from drpo_cli.tools import tiny
from drpo_cli.types import Group, Problem, Prompt, Rollout, Scores

TEMPLATES = Path(__file__).parents[2] / "templates"
NAMES = ("reasoning", "math", "code")


def template(name: str) -> Spec:
    return load(TEMPLATES / name / "run.toml")


def data_of(spec: Spec) -> Split:
    return split(spec.data, spec.eval_data, spec.eval.problems)


def grade(spec: Spec, problems: Sequence[Problem], completions: Sequence[str]) -> list[Scores]:
    """What the template's own rewards say of one completion for each problem."""
    groups = [
        Group(
            Prompt(str(at), str(problem.prompt), (1,), problem.answer, problem.metadata),
            (Rollout((1,), (-1.0,), completion, False),),
        )
        for at, (problem, completion) in enumerate(zip(problems, completions, strict=True))
    ]
    with Grader(spec.reward) as grader:
        graded = grader.score(groups)
    assert graded.quarantine == []
    return graded.scores_P


def totals(spec: Spec, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    return [scores.total_G[0] for scores in grade(spec, problems, completions)]


@pytest.mark.parametrize("name", NAMES)
def test_a_template_plans_without_a_doubt_and_without_a_network(name: str) -> None:
    spec = template(name)
    assert spec.warnings == ()
    assert (spec.run.name, spec.objective.type) == (name, "drpo")
    assert spec.model.path.startswith("Qwen/")  # a hub id: nothing to look at here
    rollout = spec.rollout.config.model_dump()
    for world in (1, 2, 4, 8):
        assert make_plan(spec, world).context == rollout["context_length"]


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_and_the_trial_are_there(name: str) -> None:
    readme = (TEMPLATES / name / "README.md").read_text()
    assert readme.startswith("# ")
    assert "sh try.sh" in readme
    for file in (TEMPLATES / name).iterdir():
        assert file.name in (*readme.split("`"), "README.md", "models", "runs", "__pycache__")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_held_out_is_trained_on(name: str) -> None:
    spec = template(name)
    data = data_of(spec)
    assert len(data.held_out) == spec.eval.problems
    held_out = {problem.prompt for problem in data.held_out}
    trained = [row for row in islice(data.rows, 1000) if data.trains(row)]
    assert len(trained) >= 80
    assert held_out.isdisjoint(row.problem.prompt for row in trained)


def test_reasoning_has_all_its_tasks_and_pays_for_a_right_answer_in_form() -> None:
    spec = template("reasoning")
    held_out = data_of(spec).held_out
    counts = Counter(problem.metadata["task"] for problem in held_out)
    source = spec.data[0].config
    assert isinstance(source, reasoning_gym.Config)
    assert counts.keys() == {task.task for task in source.tasks}
    assert min(counts["chain_sum"], counts["countdown"]) > 30  # of 200, with a share of 2 in 9
    some = held_out[:60]
    right = [f"<think>Hm.</think>\n<answer>{problem.answer}</answer>" for problem in some]
    assert min(totals(spec, some, right)) >= spec.eval.threshold
    formless = [f"<answer>{problem.answer}</answer>" for problem in some]
    assert max(totals(spec, some, formless)) < spec.eval.threshold
    wrong = ["<think>Hm.</think>\n<answer>I cannot say.</answer>"] * len(some)
    assert max(totals(spec, some, wrong)) < 0.5


def test_the_math_problems_are_what_their_script_makes(tmp_path: Path) -> None:
    shutil.copy(TEMPLATES / "math" / "make_problems.py", tmp_path)
    subprocess.run([sys.executable, tmp_path / "make_problems.py"], check=True, timeout=120)
    for name in ("train.jsonl", "held_out.jsonl"):
        assert (tmp_path / name).read_bytes() == (TEMPLATES / "math" / name).read_bytes()


def test_math_answers_have_the_form_of_the_aime_and_verify() -> None:
    spec = template("math")
    data = data_of(spec)
    assert (len(data.train), len(data.held_out)) == (360, 30)
    problems = [*data.train, *data.held_out]
    answers = [int(str(problem.answer)) for problem in problems]
    assert all(0 <= answer <= 999 for answer in answers)
    assert len(set(answers)) > 200
    assert Counter(p.metadata["kind"] for p in data.held_out).most_common()[0][1] == 2
    assert totals(spec, problems, [f"So \\boxed{{{a}}}." for a in answers]) == [1.0] * 390
    assert totals(spec, problems, [f"So \\boxed{{{a + 1}}}." for a in answers]) == [0.0] * 390


def test_math_watches_for_the_box_without_paying_for_it() -> None:
    spec = template("math")
    (problem,) = data_of(spec).held_out[:1]
    (scores,) = grade(spec, [problem], [f"The answer is ${problem.answer}$."])
    assert scores.total_G == (1.0,)
    assert scores.by_reward["boxed"] == (0.0,)


def test_math_becomes_dapo_by_the_line_in_its_readme() -> None:
    readme = (TEMPLATES / "math" / "README.md").read_text()
    (line,) = [line for line in readme.splitlines() if "--set preset=dapo" in line]
    words = shlex.split(line)
    overrides = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    spec = load(TEMPLATES / "math" / "run.toml", overrides)
    assert (spec.preset, spec.objective.type, spec.advantage.type) == (
        "dapo",
        "ppo_clip",
        "group_norm",
    )
    assert (spec.train.overlong, spec.warnings) == ("soft", ())


def code_rows() -> list[Problem]:
    lines = (TEMPLATES / "code" / "problems.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Problem(row["prompt"], row["answer"], {"tests": row["tests"]}) for row in rows]


def test_every_code_problem_is_passed_by_its_solution_and_not_by_nothing() -> None:
    problems = code_rows()
    assert len(problems) >= 100
    assert all(len(problem.metadata["tests"]) >= 4 for problem in problems)
    spec = template("code")
    solved = [f"Here it is:\n```python\n{problem.answer}```" for problem in problems]
    assert totals(spec, problems, solved) == [1.0] * len(problems)
    assert totals(spec, problems, ["```python\n\n```"] * len(problems)) == [0.0] * len(problems)


def test_code_outside_a_block_passes_its_tests_and_earns_nothing() -> None:
    problem, another = code_rows()[:2]
    bare, swapped = grade(
        template("code"),
        [problem, problem],
        [str(problem.answer), f"```python\n{another.answer}```"],
    )
    assert (bare.by_reward["python_tests"], bare.total_G) == ((1.0,), (0.0,))
    assert (swapped.by_reward["fenced"], swapped.total_G) == ((1.0,), (0.0,))


def test_the_tiny_model_reads_and_writes_any_text(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny.make(tmp_path / "deep" / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "deep" / "tiny")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "π ≈ 3,\n\t<think> 👍"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert (
        tokenizer.decode(ids)
        == text
        == "<|start|>user\nπ ≈ 3,\n\t<think> 👍<|end|>\n" + ("<|start|>assistant\n")
    )
    assert ids.count(tokenizer.eos_token_id) == 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "deep" / "tiny")
    assert sum(weight.numel() for weight in model.parameters()) < 400_000
    assert model.config.vocab_size == len(tokenizer)
    with pytest.raises(UserError, match=r"tiny exists; name another folder"):
        tiny.make(tmp_path / "deep" / "tiny")


def test_the_tiny_model_asks_for_its_folder() -> None:
    command = [sys.executable, "-m", "drpo_cli.tools.tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "error: usage: python -m drpo_cli.tools.tiny FOLDER\n",
    )
