"""Results and samples in the layout of lm-evaluation-harness, as its `--log_samples` writes them.

https://github.com/EleutherAI/lm-evaluation-harness: `DIR/MODEL/results_TIME.json` with the scores
of all tasks, and `DIR/MODEL/samples_TASK_TIME.jsonl` with a line per problem.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drpo_cli import __version__
from drpo_cli.evaluate.metrics import Evaluation
from drpo_cli.runs.folder import write_whole
from drpo_cli.tools.exports.results import Response, Result

FILTER = "none"
"""The tool's name for responses that are scored as they are; it stands in the keys of metrics."""
LONGEST_NAME = 200
VERSION = 1
"""Of the tasks: the tool compares scores of the same version only."""


def write(folder: Path, results: Sequence[Result]) -> None:
    """Writes the files of each model; its results come last, and all have the same time."""
    for target in dict.fromkeys(result.target for result in results):
        own = [result for result in results if result.target == target]
        home = folder / sanitize(target)
        home.mkdir(parents=True, exist_ok=True)
        time = datetime.now().isoformat(timespec="microseconds").replace(":", "-")
        hashes = {}
        for result in own:
            parts: list[str] = []
            write_whole(home / f"samples_{result.task}_{time}.jsonl", _lines(result, parts))
            hashes[result.task] = _hash("".join(parts))
        values = _results(own, hashes)
        write_whole(home / f"results_{time}.json", json.dumps(values, indent=2))


def sanitize(model: str) -> str:
    """The name of a model's folder, as the tool makes it: what names may not have becomes `__`."""
    found = re.sub(r'["<>:/|\\?*\[\]]+', "__", model)
    return Path(model).resolve().name if found in (".", "..") else found[-LONGEST_NAME:]


def _lines(result: Result, hashes: list[str]) -> Iterator[str]:
    """The lines of a file of samples; adds the hashes of each problem to the list."""
    for index, group in enumerate(result.groups()):
        line = _line(result, index, group)
        hashes.append(line["doc_hash"] + line["prompt_hash"] + line["target_hash"])
        yield json.dumps(line) + "\n"


def _line(result: Result, index: int, group: Sequence[Response]) -> dict[str, Any]:
    """A problem with all its responses."""
    first, k = group[0].line, len(group)
    asked = first["prompt"] if first["chat"] is None else first["chat"]
    doc = {
        "id": first["prompt_id"],
        "prompt": asked,
        "answer": first["answer"],
        "metadata": first["metadata"],
    }
    texts = [response.line["completion"] for response in group]
    target = first["answer"] or ""
    return {
        "doc_id": index,
        "doc": doc,
        "target": target,
        "arguments": {
            "gen_args_0": {"arg_0": first["prompt"], "arg_1": _generation(result)},
        },
        "resps": [texts],
        "filtered_resps": [texts],
        "filter": FILTER,
        "metrics": [f"avg@{k}"],
        f"avg@{k}": sum(response.right for response in group) / k,
        "right": [response.right for response in group],
        "total_reward": [response.line["reward"] for response in group],
        "rewards": {
            name: [response.line["rewards"][name] for response in group]
            for name in first["rewards"]
        },
        "truncated": [response.line["truncated"] for response in group],
        "tokens": [response.line["tokens"] for response in group],
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(first["prompt"]),
        "target_hash": _hash(target),
    }


def _results(results: Sequence[Result], hashes: Mapping[str, str]) -> dict[str, Any]:
    """The scores of a model on all tasks, and how they were measured."""
    first, tasks = results[0], [result.task for result in results]
    spec, began = first.spec, min(result.began for result in results)
    ended = max(result.began + result.seconds for result in results)
    return {
        "results": {result.task: _scores(result) for result in results},
        "group_subtasks": {task: [] for task in tasks},
        "configs": {result.task: _config(result) for result in results},
        "versions": dict.fromkeys(tasks, VERSION),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {
            result.task: dict.fromkeys(result.evaluation.summary, True) for result in results
        },
        "n-samples": {
            result.task: {"original": result.whole, "effective": len(result.evaluation.problems)}
            for result in results
        },
        "config": {
            "model": spec.rollout.type,
            "model_args": f"pretrained={first.target},dtype={first.dtype}",
            "batch_size": None,
            "batch_sizes": [],
            "device": None,
            "use_cache": None,
            "limit": None,
            "bootstrap_iters": 0,
            "gen_kwargs": None,
            "random_seed": first.sampling.seed,
        },
        "intervals": {
            result.task: {
                name: [one.low, one.high] for name, one in result.evaluation.summary.items()
            }
            for result in results
        },
        "date": began,
        "drpo_version": __version__,
        "task_hashes": dict(hashes),
        "model_source": spec.rollout.type,
        "model_name": first.target,
        "model_name_sanitized": sanitize(first.target),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": None,
        "chat_template": None,
        "chat_template_sha": None,
        "start_time": began,
        "end_time": ended,
        "total_evaluation_time_seconds": str(ended - began),
    }


def _scores(result: Result) -> dict[str, Any]:
    """The metrics, each with the tool's standard error where that is defined: that of a mean."""
    found = result.evaluation
    values: dict[str, Any] = {
        "name": result.task,
        "alias": result.task,
        "sample_len": len(found.problems),
    }
    for name, one in found.summary.items():
        values[f"{name},{FILTER}"] = one.value
        error = _standard_error(found) if name == f"avg@{found.k}" else "N/A"
        values[f"{name}_stderr,{FILTER}"] = error
    for name, (mean, _) in result.totals.rewards.items():
        values[f"reward/{name.replace(',', ' ')},{FILTER}"] = mean
    return values


def _standard_error(found: Evaluation) -> float | str:
    """Of avg@k, over problems; not what our interval is made of."""
    rates = [*found.avg_by_problem().values()]
    return "N/A" if len(rates) < 2 else statistics.stdev(rates) / len(rates) ** 0.5


def _config(result: Result) -> dict[str, Any]:
    """What the tool says of a task."""
    return {
        "task": result.task,
        "dataset_path": result.source,
        "output_type": "generate_until",
        "num_fewshot": 0,
        "repeats": result.evaluation.k,
        "generation_kwargs": _generation(result),
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in result.evaluation.summary
        ],
        "should_decontaminate": False,
        "metadata": {"version": VERSION, "threshold": result.evaluation.threshold},
    }


def _generation(result: Result) -> dict[str, Any]:
    sampling = result.sampling
    return {
        "until": list(result.spec.rollout.config.stop),
        "do_sample": sampling.top_k != 1,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_gen_toks": sampling.max_new_tokens,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
