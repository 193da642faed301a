"""Logs of inspect_ai, which `inspect view --log-dir DIR` and `read_eval_log` open.

https://inspect.aisi.org.uk/eval-logs.html: version 2 of the JSON format, one file per target and
task. The package itself is not needed: it pins older versions of packages that drpo runs with.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drpo_cli import __version__
from drpo_cli.evaluate.metrics import Estimate
from drpo_cli.runs.folder import write_whole
from drpo_cli.tools.exports.results import Response, Result

FORMAT = 2
RIGHT = "right"
"""The score of whether a response is right, beside those of the rewards."""
ROLES = {role: role for role in ("system", "user", "assistant", "tool")} | {"developer": "system"}
"""What the tool calls the roles of messages; one that is not here is the user's."""


def write(folder: Path, results: Sequence[Result]) -> None:
    """Writes a log for each result; the file's name begins with its time, as the tool wants."""
    folder.mkdir(parents=True, exist_ok=True)
    run = _new_id()
    for result in results:
        head = _head(result, run)
        created, task = head["eval"]["created"].replace(":", "-"), _plain(result.task)
        name = f"{created}_{task}_{head['eval']['task_id']}.json"
        write_whole(folder / name, _log(result, head))


def _log(result: Result, head: Mapping[str, Any]) -> Iterator[str]:
    """The text of a log. The samples come last, so that a reader of the rest need not read them."""
    before = json.dumps(head).removesuffix("}") + ', "samples": [\n'
    right = name_of_right(result)
    for group in result.groups():
        for response in group:
            yield before + json.dumps(_sample(result, response, right))
            before = ",\n"
    yield "\n]}\n"


def name_of_right(result: Result) -> str:
    """`right`, or another name if a reward has this one."""
    found = RIGHT
    while found in result.totals.rewards:
        found += "_"
    return found


def _head(result: Result, run: str) -> dict[str, Any]:
    """Everything of a log but its samples."""
    found, totals, generate = result.evaluation, result.totals, _generate_config(result)
    limit = len(found.problems) if len(found.problems) < result.whole else None
    return {
        "version": FORMAT,
        "status": "success",
        "eval": {
            "eval_id": _new_id(),
            "run_id": run,
            "created": _write_time(result.start),
            "task": result.task,
            "task_id": _new_id(),
            "dataset": {
                "name": result.source,
                "samples": len(found.problems),
                "sample_ids": [problem.id for problem in found.problems],
                "shuffled": False,
            },
            "model": result.target,
            "model_args": {
                "engine": result.spec.rollout.type,
                "dtype": result.dtype,
            },
            "model_generate_config": generate,
            "config": {"limit": limit, "epochs": found.k, "epochs_reducer": ["mean"]},
            "packages": {"drpo": __version__},
            "metadata": {
                "threshold": found.threshold,
                "truncated_share": found.truncated,
                "unscored": found.unscored,
                "chosen_of": found.chosen_of,
            },
        },
        "plan": {"name": "plan", "steps": [{"solver": "generate"}], "config": generate},
        "results": {
            "total_samples": len(found.problems) * found.k,
            "completed_samples": len(found.problems) * found.k,
            "scores": [*_scores(result)],
        },
        "stats": {
            "started_at": _write_time(result.start),
            "completed_at": _write_time(result.end),
            "model_usage": {result.target: _usage(totals.prompt_tokens, totals.tokens)},
        },
    }


def _generate_config(result: Result) -> dict[str, Any]:
    sampling, stop = result.sampling, result.spec.rollout.config.stop
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **({"top_k": sampling.top_k} if sampling.top_k else {}),
        "max_tokens": sampling.max_new_tokens,
        "seed": sampling.seed,
        **({"stop_seqs": list(stop)} if stop else {}),
    }


def _scores(result: Result) -> Iterator[dict[str, Any]]:
    """The metrics of the evaluation, avg@k first; then the mean of each reward."""
    found = result.evaluation
    metrics = {name: _metric(name, one) for name, one in found.summary.items()}
    yield _score(name_of_right(result), len(found.problems), 0, metrics)
    for name, (mean, count) in result.totals.rewards.items():
        only = {"mean": {"name": "mean", "value": mean}}
        yield _score(name, count, len(found.problems) - count, only)


def _score(name: str, scored: int, unscored: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "scorer": name,
        "reducer": "mean",
        "scored_samples": scored,
        "unscored_samples": unscored,
        "metrics": metrics,
    }


def _metric(name: str, one: Estimate) -> dict[str, Any]:
    interval = {"low": one.low, "high": one.high, "interval": "95 %, over problems"}
    more = {} if one.low is None else {"metadata": interval}
    return {"name": name, "value": one.value, **more}


def _sample(result: Result, response: Response, right: str) -> dict[str, Any]:
    line, model = response.line, result.target
    episode = line.get("messages")
    chat = line["chat"]
    asked = [{"role": "user", "content": line["prompt"]}] if chat is None else chat
    reply = {"role": "assistant", "content": line["completion"]}
    talk = [_message(one) for one in (episode or [*asked, reply])]
    usage = _usage(response.prompt_tokens, line["tokens"])
    told = {"environment", "end", "failure", "info", "counts"} & line.keys()
    return {
        "id": line["prompt_id"],
        "epoch": line["sample"] + 1,
        "input": line["prompt"] if chat is None else talk[: len(chat)],
        "target": line["answer"] or "",
        "messages": talk,
        "output": {
            "model": model,
            "choices": [
                {
                    "message": {**_message(reply), "source": "generate", "model": model},
                    "stop_reason": "max_tokens" if line["truncated"] else "stop",
                }
            ],
            "completion": line["completion"],
            "usage": usage,
            "metadata": {
                "prompt": line["prompt"],
                "tokens": line["tokens"],
                **{key: line[key] for key in sorted(told)},
            },
        },
        "scores": {
            right: {
                "value": "C" if response.right else "I",
                "metadata": {"total_reward": line["reward"]},
            },
            **{name: {"value": value} for name, value in response.rewards.items()},
        },
        "metadata": line["metadata"],
        "model_usage": {model: usage},
        "uuid": _new_id(),
    }


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of a chat in the tool's form."""
    role, content = message["role"], message.get("content") or ""
    found: dict[str, Any] = {"role": ROLES.get(role, "user"), "content": content}
    if found["role"] != role:
        found["metadata"] = {"role": role}
    if thinking := message.get("reasoning_content"):
        text = {"type": "text", "text": content}
        found["content"] = [{"type": "reasoning", "reasoning": thinking}, text]
    if role == "assistant" and (calls := message.get("tool_calls")):
        found["tool_calls"] = [_call(call, i) for i, call in enumerate(calls)]
    if role == "tool":
        more = {"function": message.get("name"), "tool_call_id": message.get("tool_call_id")}
        found |= {key: value for key, value in more.items() if value}
    return found


def _call(call: Mapping[str, Any], index: int) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments")
    return {
        "id": call.get("id") or f"call-{index}",
        "function": function.get("name", ""),
        "arguments": arguments if isinstance(arguments, dict) else {"arguments": arguments},
        "type": "function",
    }


def _usage(asked: int, sampled: int) -> dict[str, int]:
    return {"input_tokens": asked, "output_tokens": sampled, "total_tokens": asked + sampled}


def _plain(name: str) -> str:
    """A name as a part of a file's name, whose parts `_` separates."""
    return re.sub(r"[^\w.-]|_", "-", name)


def _write_time(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


def _new_id() -> str:
    return uuid.uuid4().hex
