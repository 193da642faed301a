"""Named suites: each loads, reads its data set's real columns, and says what it is."""

from __future__ import annotations

import base64
import json
import pickle
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from drpo_cli import suites
from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.split import hold_out
from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import ProblemResult, summarise
from drpo_cli.rewards import instructions, python_tests
from drpo_cli.runs.folder import RunFolder
from drpo_cli.settings import SUITE_FILES
from drpo_cli.spec import Spec, SpecError, dump, load, schema
from drpo_cli.spec.dumping import settings_of
from drpo_cli.spec.problems import key_text
from drpo_cli.step import build
from drpo_cli.step.evaluate import eval_sampling
from drpo_cli.tools import evaluate, published
from support.models import tokenizer

ROWS: dict[str, dict[str, Any]] = {
    "aime24": {
        "id": 60,
        "problem": "1 + 1?",
        "solution": "It is 2.",
        "answer": "002",
        "year": "2024",
    },
    "aime25": {"problem": "1 + 1?", "answer": "2", "id": "0"},
    "math500": {"problem": "1 + 1?", "answer": "2", "subject": "Algebra", "level": 1},
    "gsm8k": {"question": "1 + 1?", "answer": "One and one: <<1+1=2>>2.\nSo 2\n#### 2"},
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": "def f(x):\n    '''1 + 1?'''\n",
        "canonical_solution": "    return x + 1\n",
        "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(1) == 2\n",
        "entry_point": "f",
    },
    "ifeval": {
        "key": 1000,
        "prompt": "1 + 1?",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [
            {"num_words": None, "relation": None},
            {"num_words": 3, "relation": "less than"},
        ],
    },
    "livecodebench": {
        "question_title": "Sum",
        "question_content": "1 + 1?",
        "platform": "leetcode",
        "question_id": "3763",
        "contest_id": "weekly-contest-438",
        "contest_date": "2025-02-23T00:00:00",
        "starter_code": "class Solution:\n    def f(self, x: int) -> int:\n        ",
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "1", "output": "2", "testtype": "functional"}]),
        "private_test_cases": base64.b64encode(
            zlib.compress(
                pickle.dumps(json.dumps([{"input": "2", "output": "3", "testtype": "functional"}]))
            )
        ).decode(),
        "metadata": '{"func_name": "f"}',
    },
    "mbpp": {
        "source_file": "Benchmark Questions Verification V2.ipynb",
        "task_id": 11,
        "prompt": "Write a function f. 1 + 1?",
        "code": "def f(x):\n    return x + 1",
        "test_imports": ["import math"],
        "test_list": ["assert f(1) == 2", "assert math.floor(f(1.5)) == 2"],
    },
    "gpqa_diamond": {
        "Question": "1 + 1?",
        "Correct Answer": "2",
        "Incorrect Answer 1": "3",
        "Incorrect Answer 2": "4",
        "Incorrect Answer 3": "5",
    },
}
"""A row of each data set, with its columns."""
GREEDY = {"humaneval", "mbpp", "ifeval"}
RUN = """
[run]
name = "scored"
steps = 1
[model]
path = "./model"
[[data]]
type = "arithmetic"
[[reward]]
type = "exact_match"
"""


def copy_of(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or (ROWS[name],)))
    return path


def test_there_is_a_row_for_every_suite() -> None:
    assert suites.available() == sorted(ROWS)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_suite_is_pinned_and_says_what_it_is(name: str) -> None:
    suite = suites.load(name, "some/model")
    source = suite.spec.data[0].config.model_dump()
    assert re.fullmatch(r"[0-9a-f]{40}", source["revision"])
    assert suite.about.source == f"https://huggingface.co/datasets/{source['path']}"
    assert suite.spec.eval.problems == suite.about.problems
    assert suite.spec.model.path == "some/model"
    sampling = eval_sampling(suite.spec)
    choice = (sampling.temperature, sampling.top_p, sampling.top_k)
    assert choice == ((1.0, 1.0, 1) if name in GREEDY else (0.6, 0.95, 0))
    source_of_a_score = r"arXiv \d{4}\.\d{5}$|https://huggingface\.co/[\w.-]+/[\w.-]+$"
    assert all(re.match(source_of_a_score, row.source) for row in suite.about.published)


@pytest.mark.parametrize("name", sorted(ROWS.keys() - GREEDY - {"livecodebench"}))
def test_a_suite_reads_the_columns_of_its_data_set(name: str, tmp_path: Path) -> None:
    given = ("data[0].chat=false",)
    suite = suites.load(name, "m", given, copy_of(tmp_path, name))
    (row,) = hold_out(suite.spec.data, (), suite.spec.eval.problems)
    prompt = str(Prompts(tokenizer(), 1000)._render(row).text)
    assert row.problem.prompt == "1 + 1?" and "1 + 1?\n\n" in prompt and "\\boxed{}" in prompt
    if name == "gpqa_diamond":
        assert f"{row.problem.answer}. 2\n" in prompt
        assert re.findall(r"^([A-D])\. [2-5]$", prompt, re.MULTILINE) == list("ABCD")
    else:
        assert row.problem.answer in ("2", "002")


@pytest.mark.parametrize(
    ("name", "completion", "score"),
    [
        ("humaneval", "```python\ndef f(x):\n    return x + 1\n```", 1),
        ("humaneval", "    return x + 1", 1),
        ("humaneval", "    return x", 0),
        ("mbpp", "So:\n```python\ndef f(x):\n    return x + 1\n```", 1),
        ("mbpp", "```python\ndef f(x):\n    return 2\n```", 1),
        ("mbpp", "```python\ndef f(x):\n    return x\n```", 0),
    ],
)
def test_code_is_scored_by_the_tests_of_its_row(
    name: str, completion: str, score: float, tmp_path: Path
) -> None:
    suite = suites.load(name, "m", ("data[0].chat=false",), copy_of(tmp_path, name))
    (row,) = hold_out(suite.spec.data, (), suite.spec.eval.problems)
    prompt = str(Prompts(tokenizer(), 1000)._render(row).text)
    assert "1 + 1?" in prompt and ("assert f(1) == 2\nassert math" in prompt) == (name == "mbpp")
    config = suite.spec.reward[0].config
    problem = row.problem
    assert isinstance(config, python_tests.Config)
    assert python_tests.reward(completion, problem.answer, problem.metadata, config) == score


LCB_METHOD = (
    "```python\nclass Solution:\n    def f(self, x: int) -> Optional[int]:\n        return "
)
LCB_STDIN = {
    "starter_code": "",
    "metadata": "{}",
    "public_test_cases": '[{"input": "1\\n", "output": "2\\n", "testtype": "stdin"}]',
    "private_test_cases": '[{"input": "2\\n", "output": "3.0\\n", "testtype": "stdin"}]',
}


@pytest.mark.parametrize(
    ("changed", "completion", "score"),
    [
        ({}, LCB_METHOD + "x + 1\n```", 1),
        ({}, LCB_METHOD + "2\n```", 0),  # passes the public tests only
        (LCB_STDIN, "```python\nprint(int(input()) + 1)\n```", 1),
        (LCB_STDIN, "```python\nprint(2)\n```", 0),
    ],
)
def test_problems_of_contests_are_scored_by_public_and_hidden_tests(
    changed: dict[str, str], completion: str, score: float, tmp_path: Path
) -> None:
    given = ROWS["livecodebench"] | changed
    early, late = (given | {"contest_date": f"2025-{day}T00:00:00"} for day in ("01-31", "05-01"))
    path = copy_of(tmp_path, "livecodebench", early, given, late)
    suite = suites.load("livecodebench", "m", ("data[0].chat=false",), path)
    (row,) = hold_out(suite.spec.data, (), suite.spec.eval.problems)
    prompt = str(Prompts(tokenizer(), 1000)._render(row).text)
    assert "1 + 1?" in prompt
    assert ("class Solution:" in prompt) != ("stdin" in prompt) == bool(changed)
    config = suite.spec.reward[0].config
    assert isinstance(config, python_tests.Config)
    assert python_tests.reward(completion, None, row.problem.metadata, config) == score


def test_instructions_are_scored_by_the_columns_of_their_row(tmp_path: Path) -> None:
    suite = suites.load("ifeval", "m", ("data[0].chat=false",), copy_of(tmp_path, "ifeval"))
    (row,) = hold_out(suite.spec.data, (), suite.spec.eval.problems)
    assert Prompts(tokenizer(), 1000)._render(row).text == "1 + 1?"
    config = suite.spec.reward[0].config
    assert isinstance(config, instructions.Config)
    for completion, score in (("It is", 1), ("It is 2.", 0), ("No, 2", 0)):
        assert instructions.reward(config)(completion, row.problem.metadata) == score


def test_the_page_lists_every_suite() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for name in suites.available():
        spec = suites.load(name, "m").spec
        numbers = (spec.eval.problems, spec.eval.samples_per_prompt, spec.eval.max_new_tokens)
        cells = " | ".join(f"{number:,}" for number in numbers)
        assert f"| `{name}` | {cells} | {spec.data[0].config.model_dump()['path']}" in page


def test_keys_of_a_suite_can_be_set(tmp_path: Path) -> None:
    given = ("eval.max_new_tokens=7", "data[0].chat=false", "rollout.engine=transformers")
    spec = suites.load("aime25", "m", given, copy_of(tmp_path, "aime25")).spec
    assert (spec.eval.max_new_tokens, spec.rollout.type) == (7, "transformers")
    assert spec.data[0].config.chat is False


def test_a_suite_may_be_a_file_of_the_users(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    body = (SUITE_FILES / "aime25.toml").read_text()
    path.write_text(body)
    assert suites.load(str(path), "m").name == "mine"
    for old, new, said in (
        ("[suite]", "[suit]", "suit"),
        (
            "problems = 30",
            "problems = 0",
            "suite.problems: Input should be greater than or equal to 1",
        ),
        ('licence  = "Apache 2.0"\n', "", "suite.licence: Field required"),
        ("[[reward]]", "[[rewards]]", "rewards"),
        ("title    =", "title", "mine.toml"),
    ):
        assert old in body
        path.write_text(body.replace(old, new, 1))
        with pytest.raises(UserError, match=re.escape(said)):
            suites.load(str(path), "m")
    path.write_text(body[: body.index("[suite]")] + body[body.index("[[data]]") :])
    with pytest.raises(UserError, match=r"has no section \[suite\]"):
        suites.load(str(path), "m")


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--suite aime: there is no such suite") as caught:
        suites.load("aime", "m")
    assert f"name one of {', '.join(suites.available())}, or" in str(caught.value)
    with pytest.raises(UserError, match="--suite-path: there is no file or folder"):
        suites.load("aime24", "m", data=tmp_path / "no.jsonl")
    with pytest.raises(UserError, match="--suite-path math500=…: is not among the suites"):
        evaluate.evaluate_suites(["m"], ["aime24"], None, evaluate.ONCE, data={"math500": tmp_path})


def test_published_scores_stand_beside_those_measured_here() -> None:
    suite = suites.load("aime24", "m")
    problems = [
        ProblemResult("a", "1", (1.0, 0.0), ("x", "y"), truncated=1),
        ProblemResult("b", "2", (1.0, 1.0), ("x", "x")),
    ]
    found = {"models--deepseek-ai--DeepSeek-R1-Distill-Qwen-7B/snapshots/1": summarise(problems)}
    console = Console(width=200, record=True)
    console.print(published.render(suite, found))
    text = console.export_text()
    (line,) = (line for line in text.splitlines() if "Distill-Qwen-7B " in line)
    assert re.search(r"55\.5 +75\.0 +pass@1 of 64 responses", line)
    assert "Here: avg@2 of 2 problems, of 30, temperature 0.6, top-p 0.95, 32,768 tokens" in text
    assert "25.0 % of the responses ran out of tokens" in text
    values = published.as_dict(suite, found)
    assert values["suite"]["published"][1]["score"] == 55.5 and len(values["targets"]) == 1
    assert published.find_ours("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", found) is None


def test_a_target_without_a_folder_is_said_to_be_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert evaluate.describe("owner/model") == "owner/model (no folder here, so a model of the hub)"
    for target in ("runs/frist", "model", "/owner/model", "./owner/model"):
        assert evaluate.describe(target) == target


def test_a_run_has_options_of_its_own_for_a_suite(tmp_path: Path) -> None:
    copy = copy_of(tmp_path, "aime25", *({"problem": f"{i}?", "answer": "2"} for i in range(5)))
    options = f'problems = 3\nsamples_per_prompt = 2\nmax_new_tokens = 7\npath = "{copy}"\n'
    (found,) = suites.of_run(run_with(tmp_path, f'name = "aime25"\n{options}'))
    assert (found.spec.eval.samples_per_prompt, found.spec.rollout.config.max_new_tokens) == (2, 7)
    assert len(build.suite_rows([found])["aime25"]) == 3
    (whole,) = suites.of_run(run_with(tmp_path, 'name = "aime25"\n'))
    assert eval_sampling(whole.spec) == eval_sampling(suites.load("aime25", "m").spec)
    assert whole.spec.eval.problems == whole.about.problems


def run_with(folder: Path, *tables: str) -> Spec:
    """A run that is scored on suites; each table is the body of an `[[eval.suite]]`."""
    path = folder / "run.toml"
    path.write_text(RUN + "".join(f"[[eval.suite]]\n{table}" for table in tables))
    return load(path)


def test_suites_of_a_run_are_written_out_and_loaded_again(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text((SUITE_FILES / "aime25.toml").read_text())
    spec = run_with(
        tmp_path, 'name = "./mine.toml"\nevery = 5\npath = "rows"\n', 'name = "gsm8k"\n'
    )
    assert [one.label for one in spec.eval_suites] == ["mine", "gsm8k"]
    assert spec.eval_suites[0].path == tmp_path / "rows"
    again = tmp_path / "elsewhere" / "run.toml"
    again.parent.mkdir()
    again.write_text(dump(spec))
    assert load(again) == spec
    every = {key_text(one.key): one.value for one in settings_of(spec)}
    assert (every["eval.suite[0].every"], every["eval.suite[1].every"]) == (5, None)


@pytest.mark.parametrize(
    ("table", "where", "said"),
    [
        ('name = "aime2"\n', "eval.suite[0].name", "there is no suite 'aime2'; name one of aime24"),
        ("every = 1\n", "eval.suite[0].name", "is missing"),
        ('name = "aime24"\nevry = 1\n', "eval.suite[0].evry", "did you mean 'every'?"),
    ],
)
def test_a_wrong_table_is_said_by_its_key(
    tmp_path: Path, table: str, where: str, said: str
) -> None:
    with pytest.raises(SpecError) as refused:
        run_with(tmp_path, table)
    (problem,) = refused.value.problems
    assert problem.key == where
    assert said in problem.message


def test_two_suites_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is gsm8k a second time"):
        run_with(tmp_path, 'name = "gsm8k"\n', 'name = "./gsm8k.toml"\n')


def test_suites_that_cannot_be_used_are_found_by_check(tmp_path: Path) -> None:
    tables = (
        'name = "aime24"\npath = "nowhere.csv"\n',
        'name = "./none.toml"\n',
        'name = "aime25"\nproblems = 31\n',
    )
    found = list(suites.find_errors(run_with(tmp_path, *tables)))
    assert [problem.key for problem in found] == [("eval", "suite", i) for i in range(3)]
    assert "there is no file or folder" in found[0].what
    assert "there is no such file" in found[1].what
    assert "problems: is 31, and the suite has 30" in found[2].what


def test_the_schema_describes_suites() -> None:
    table = schema.build().document["properties"]["eval"]["properties"]["suite"]
    assert table["items"]["required"] == ["name"]
    assert table["items"]["additionalProperties"] is False


def test_only_what_a_run_left_out_is_taken_as_not_trained_on(tmp_path: Path) -> None:
    problems = [{"problem": f"{i}+34=", "answer": "2"} for i in (11, 12)]
    copy = copy_of(tmp_path, "aime25", *problems)
    table = f'name = "aime25"\npath = "{copy}"\nproblems = 1\n'
    spec = run_with(tmp_path, table)
    run = RunFolder(tmp_path / "runs" / "scored")
    run.path.mkdir(parents=True)
    run.spec.write_text(dump(spec))
    whole = suites.load("aime25", "m", (), copy)
    found = evaluate._compare_with_training([whole], [str(run.path)], Console())["aime25"]
    left = {row.id for row in build.suite_rows(suites.of_run(spec))["aime25"]}
    assert (found.problems, found.same) == (2, 1)
    assert found.pairs[0][0] not in left
