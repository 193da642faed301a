"""Logs of `drpo eval` for other tools, opened by these tools."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import summarise
from drpo_cli.evaluate.results import problem_results
from drpo_cli.spec import load
from drpo_cli.tools.evaluate import How
from drpo_cli.tools.exports import inspect_ai, lm_eval
from drpo_cli.tools.exports.results import Result, write_lines
from drpo_cli.types import ChatTemplate, Episode, Group, Message, Prompt, Rollout, Scores
from support.peers import HAS_PEERS
from support.specs import DATA, HEAD, REWARD

if not HAS_PEERS:
    pytest.skip("needs the packages inspect_ai and lm_eval", allow_module_level=True)

ROLLOUT = '[rollout]\nmax_new_tokens = 16\nstop = ["###"]\n'
EVAL = "[eval]\nproblems = 5\ntemperature = 0.6\ntop_p = 0.9\n"
STRANGE = '<think>\n1 é "x" \\n 🙂 </think>\u2028\x00 attachment://1'
CHAT: tuple[Message, ...] = (
    {"role": "developer", "content": "Be short."},
    {"role": "user", "content": "1 + 1?"},
)
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 1}}}
PLAYED: tuple[Message, ...] = (
    *CHAT,
    {"role": "assistant", "content": "", "reasoning_content": "Add.", "tool_calls": [CALL]},
    {"role": "tool", "name": "add", "tool_call_id": "1", "content": "2"},
    {"role": "assistant", "content": "It is 2."},
)


def prompt(id: str, text: str, answer: str | None, chat: bool = False) -> Prompt:
    messages = CHAT if chat else ({"role": "user", "content": text},)
    template = ChatTemplate("") if chat else None
    ids = tuple(range(len(text)))
    return Prompt(id, text, ids, answer, {"level": 3}, messages=messages, template=template)


def rollout(text: str, truncated: bool = False, episode: Episode | None = None) -> Rollout:
    return Rollout((1, 2, 3), (0.0,) * 3, text, truncated, episode=episode)


def make(folder: Path, task: str = "sums", target: str = "org/model", whole: int = 3) -> Result:
    """Three problems: plain text, a chat, an episode; a reward failed on one response."""
    (folder / "run.toml").write_text(HEAD + DATA + ROLLOUT + REWARD + EVAL)
    episode = Episode("adder", PLAYED, (), "done", info={"seen": 1})
    groups = [
        Group(prompt("a/0", "1+1=", "2"), (rollout("2"), rollout(STRANGE, True))),
        Group(prompt("a/1", "<u>1 + 1?", None, True), (rollout("2"), rollout(" 3\n"))),
        Group(
            prompt("a/2", "<u>1 + 1?", "2", True),
            (rollout("It is 2.", episode=episode), rollout("It is 2.", episode=episode)),
        ),
    ]
    scores = [
        Scores((1.0, 0.0), {"right": (1.0, 0.0), "short": (0.5, 0.25)}),
        Scores((1.0, 0.0), {"right": (1.0, None), "short": (0.0, 0.0)}, frozenset({1})),
        Scores((1.0, 1.0), {"right": (1.0, 1.0)}),
    ]
    lines = folder / f"{task}.jsonl"
    write_lines(lines, groups, scores)
    found = summarise(problem_results(groups, scores), unscored=1)
    spec = load(folder / "run.toml")
    return Result(task, target, spec, found, whole, lines, 1_800_000_000.25, 9.5)


def test_long_columns_are_shortened(tmp_path: Path) -> None:
    """Hidden tests of code can have megabytes, which would stand in every line."""
    hidden = replace(prompt("a/0", "1+1=", "2"), metadata={"level": 3, "tests": "x" * 10_001})
    scores = Scores((1.0,), {"right": (1.0,)})
    write_lines(tmp_path / "lines.jsonl", [Group(hidden, (rollout("2"),))], [scores])
    found = json.loads((tmp_path / "lines.jsonl").read_text())["metadata"]
    assert found == {"level": 3, "tests": "x" * 10_000 + "… (10,001 characters)"}


def test_inspect_opens_a_log(tmp_path: Path) -> None:
    from inspect_ai.log import (
        list_eval_logs,
        read_eval_log,
        read_eval_log_sample_summaries,
        write_eval_log,
    )

    result = make(tmp_path, whole=5)
    inspect_ai.write(tmp_path / "logs", [result, replace(result, target="org/other")])
    files = [one.name for one in list_eval_logs(str(tmp_path / "logs"))]
    assert len(files) == 2 and all("/2027-01-15T08-00-00+00-00_sums_" in name for name in files)
    log, other = (read_eval_log(name) for name in sorted(files, key=_model))
    head = read_eval_log(log.location, header_only=True)
    assert (head.results, head.stats, head.samples) == (log.results, log.stats, None)

    assert (log.version, log.status, log.eval.task) == (2, "success", "sums")
    assert (log.eval.model, other.eval.model) == ("org/model", "org/other")
    assert log.eval.run_id == other.eval.run_id and log.eval.eval_id != other.eval.eval_id
    assert log.eval.dataset.sample_ids == ["a/0", "a/1", "a/2"]
    assert (log.eval.config.epochs, log.eval.config.limit) == (2, 3)
    generate = log.eval.model_generate_config
    assert (generate.temperature, generate.top_p, generate.max_tokens) == (0.6, 0.9, 16)
    assert generate.seed == result.sampling.seed and generate.stop_seqs == ["###"]
    assert log.stats.started_at.startswith("2027-01-15T08:00:00")
    assert log.stats.completed_at.startswith("2027-01-15T08:00:09")

    assert log.results is not None and log.results.total_samples == 6
    ours, right, short = log.results.scores
    assert (ours.name, right.name, short.name) == ("right_", "right", "short")
    summary = result.evaluation.summary
    assert {name: one.value for name, one in ours.metrics.items()} == {
        name: one.value for name, one in summary.items()
    }
    assert next(iter(ours.metrics)) == "avg@2"
    interval = ours.metrics["avg@2"].metadata
    assert interval is not None and interval["low"] == summary["avg@2"].low
    assert right.metrics["mean"].value == pytest.approx((0.5 + 1 + 1) / 3)
    assert (short.scored_samples, short.unscored_samples) == (2, 1)

    assert log.samples is not None
    samples = {(sample.id, sample.epoch): sample for sample in log.samples}
    assert len(samples) == len(log.samples) == len({one.uuid for one in log.samples}) == 6
    cut = samples["a/0", 2]
    assert cut.output.completion == cut.output.message.text == STRANGE
    assert (cut.input, cut.target, cut.output.stop_reason) == ("1+1=", "2", "max_tokens")
    assert cut.output.usage is not None and cut.output.usage.total_tokens == 4 + 3
    assert cut.metadata == {"level": 3} and cut.scores is not None
    assert {name: one.value for name, one in cut.scores.items()} == {
        "right_": "I",
        "right": 0.0,
        "short": 0.25,
    }
    failed = samples["a/1", 2]
    assert failed.scores is not None and failed.scores.keys() == {"right_", "short"}
    assert [one.role for one in failed.messages] == ["system", "user", "assistant"]
    assert failed.messages[0].metadata == {"role": "developer"}
    assert (failed.target, failed.output.stop_reason) == ("", "stop")
    played = samples["a/2", 1].messages
    assert [one.role for one in played][2:] == ["assistant", "tool", "assistant"]
    assert played[2].tool_calls[0].arguments == {"a": 1, "b": 1}
    assert played[2].content[0].reasoning == "Add." and played[4].text == "It is 2."

    assert len(read_eval_log_sample_summaries(log.location)) == 6
    write_eval_log(log, str(tmp_path / "log.eval"))
    again = read_eval_log(str(tmp_path / "log.eval")).samples
    assert again is not None and {(sample.id, sample.epoch): sample for sample in again} == samples


def _model(path: str) -> str:
    from inspect_ai.log import read_eval_log

    return str(read_eval_log(path, header_only=True).eval.model)


def test_lm_eval_finds_and_reads_its_files(tmp_path: Path) -> None:
    from lm_eval import utils

    target, folder = "a/b:c", tmp_path / "logs"
    results = [make(tmp_path, task, target, whole=5) for task in ("my_sums", "held-out")]
    lm_eval.write(folder, results)
    lm_eval.write(folder, [make(tmp_path, target="org/other")])
    homes = {utils.sanitize_model_name(name) for name in (target, "org/other")}
    assert {path.name for path in folder.iterdir()} == homes
    files = [str(path) for path in (folder / utils.sanitize_model_name(target)).iterdir()]
    (file,) = utils.get_results_filenames(files)
    samples = utils.get_sample_results_filenames(files)
    names = [Path(sample).name for sample in samples]
    assert sorted(map(utils.get_file_task_name, names)) == ["held-out", "my_sums"]
    times = {utils.get_file_datetime(name) for name in names}
    assert times == {utils.get_file_datetime(Path(file).name).removesuffix(".json")}

    found = json.loads(Path(file).read_text())
    summary = results[0].evaluation.summary
    of_task = found["results"]["my_sums"]
    assert {name: of_task[f"{name},none"] for name in summary} == {
        name: one.value for name, one in summary.items()
    }
    assert of_task["avg@2_stderr,none"] == pytest.approx(1 / 6)  # of 0.5, 0.5 and 1
    assert of_task["pass@2_stderr,none"] == "N/A"
    assert of_task["reward/short,none"] == pytest.approx((0.375 + 0) / 2)
    assert found["n-samples"]["my_sums"] == {"original": 5, "effective": 3}
    assert found["configs"]["my_sums"]["generation_kwargs"]["until"] == ["###"]
    assert found["config"]["model_args"] == "pretrained=a/b:c,dtype=bfloat16"
    tasks = {"my_sums", "held-out"}
    keys = ("results", "configs", "versions", "n-shot", "higher_is_better", "task_hashes")
    assert all(found[key].keys() == tasks for key in keys)


def test_the_lines_of_lm_eval_have_the_hashes_that_it_computes(tmp_path: Path) -> None:
    from datasets import load_dataset
    from lm_eval import utils

    lm_eval.write(tmp_path / "logs", [make(tmp_path)])
    (file,) = (tmp_path / "logs").glob("*/samples_*.jsonl")
    lines: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["doc_id"] for line in lines] == [0, 1, 2]
    first = lines[0]
    assert first["arguments"]["gen_args_0"]["arg_0"] == "1+1="
    assert first["resps"] == first["filtered_resps"] == [["2", STRANGE]]
    assert (first["metrics"], first["avg@2"], first["truncated"]) == (["avg@2"], 0.5, [False, True])
    assert lines[1]["rewards"] == {"right": [1.0, None], "short": [0.0, 0.0]}
    for line in lines:
        doc = json.dumps(line["doc"], indent=2, ensure_ascii=False)
        asked = line["arguments"]["gen_args_0"]["arg_0"]
        hashes = (utils.hash_string(text) for text in (doc, asked, line["target"]))
        assert [line[f"{name}_hash"] for name in ("doc", "prompt", "target")] == [*hashes]
    rows = load_dataset("json", data_files=str(file), split="train", cache_dir=tmp_path / "cache")
    assert rows["avg@2"][:] == [line["avg@2"] for line in lines]


@pytest.mark.parametrize("text", ["inspect", "inspect=", "=logs", "logs", "html=logs"])
def test_what_is_no_export_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"--export {text}: is not FORMAT=DIR; write")):
        How.read(None, None, None, [text])


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        How.read(None, None, None, [f"inspect={tmp_path / 'file'}"])
    with pytest.raises(UserError, match="--export: has no effect with --shard"):
        How.read(None, tmp_path, "1/2", [f"inspect={tmp_path / 'logs'}"])


@pytest.mark.parametrize("target", [".", ".."])
def test_a_model_never_has_a_folder_outside(target: str) -> None:
    assert lm_eval.sanitize(target) == Path(target).resolve().name
