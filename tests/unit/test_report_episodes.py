"""Episodes in the page and in the view: conversations with their masks, rankings, and no markup."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape

from drpo_cli.report import page
from drpo_cli.report.conversation import SHOWN, as_text, read_conversation
from drpo_cli.report.view.follow import Followed
from drpo_cli.report.view.frame import draw_run
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import SampleRecord
from drpo_cli.runs.reader import check
from drpo_cli.runs.records import Records
from drpo_cli.runs.samples import read_columns
from drpo_cli.runs.saved import SavedRun
from drpo_cli.runs.spec import Role
from drpo_cli.step.episodes import episode_metrics
from drpo_cli.types import Episode, Rollout
from support.episodes import calculation, failed, group, guesses, lines_of
from support.models import world
from support.reports import metrics_line, run_folder, sample_line

HOSTILE = "<script>alert(1)</script></details></td>\x1b[2J\u202e"


def played(path: Path, *rollouts: Rollout, steps: int = 3) -> RunFolder:
    """A run of these episodes in every step."""
    run = run_folder(path, {"guess": 1.0})
    with world() as here:
        found = episode_metrics([group(*rollouts)], 0.5, 2.0, here)
    for step in range(1, steps + 1):
        Records(run.metrics).append(metrics_line(step, 0.5, {"guess": 0.5}) | found)
        Records(run.samples).extend(lines_of(step, *rollouts))
    return run


def of(line: dict[str, Any]) -> SampleRecord:
    record, why = check(line, SampleRecord)
    assert record is not None and not why
    return record


def changed(rollout: Rollout, **values: Any) -> Rollout:
    assert rollout.episode is not None
    return replace(rollout, episode=replace(rollout.episode, **values))


def without_tags(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_a_conversation_has_a_block_per_message_and_knows_who_wrote_it() -> None:
    conversation = read_conversation(of(lines_of(1, calculation())[0]))
    assert conversation is not None
    assert conversation.summary == (
        "3 turns, done, 1.0 s sampling, 1.1 s waiting for answers, 2 rows"
    )
    roles = [(block.role, block.own, block.wrong) for block in conversation.blocks]
    assert roles == [
        ("user", False, False),
        ("assistant", True, False),
        ("tool calculator", False, False),
        ("assistant", True, True),
        ("tool", False, False),
        ("assistant", True, False),
    ]
    first, third = conversation.blocks[1], conversation.blocks[3]
    assert first.thinking == "Better to compute it."
    assert list(first.calls) == ['calculator({"expression": "6*7"})']
    assert first.note == "turn 1, sampled in 0.50 s, answered in 0.12 s"
    assert third.note == (
        "turn 2, reward −0.5, sampled in 0.25 s, call not valid: JSON ends too early"
    )
    assert [[(p.own, p.text) for p in row] for row in conversation.rows] == [
        [(False, "«1»«2»«3»"), (True, "«5»«6»«7»«8»")],
        [
            (False, "«1»«2»«3»«7»«8»«30»"),
            (True, "«11»«12»"),
            (False, "«20»«21»"),
            (True, "«13»"),
        ],
    ]


def test_thinking_inside_the_text_is_told_apart_and_examples_are_not_the_policys() -> None:
    example = ({"role": "assistant", "content": "an example"},)
    rollout = guesses(["<think>\nlow?\n</think>\n\n1", "<think>cut off"])
    assert rollout.episode is not None
    rollout = changed(rollout, messages=(*example, *rollout.episode.messages))
    conversation = read_conversation(of(lines_of(1, rollout)[0]))
    assert conversation is not None
    found = [(b.own, b.thinking, b.text) for b in conversation.blocks if b.role == "assistant"]
    assert found == [(False, "", "an example"), (True, "low?", "1"), (True, "cut off", "")]


def test_of_a_long_conversation_beginning_and_end_are_shown() -> None:
    line = lines_of(1, guesses([str(i) for i in range(60)]))[0]
    conversation = read_conversation(of(line))
    assert conversation is not None
    assert len(conversation.blocks) == len(conversation.rows[0]) == 2 * SHOWN + 1
    left_out = len(line["messages"]) - 2 * SHOWN
    assert conversation.blocks[SHOWN].text == f"[…  {left_out} messages left out  …]"
    assert conversation.blocks[-1].text == "59"


def test_what_a_line_lacks_is_left_out() -> None:
    bare: SampleRecord = {"step": 1, "prompt": "p", "completion": "c", "environment": "guess"}
    assert as_text(bare) == "[0 turns]"
    assert as_text({"step": 1, "prompt": "p", "completion": "c"}) is None
    odd = of({**bare, "messages": [{}, {"role": 3, "content": [1], "tool_calls": [7, {"a": 1}]}]})
    assert as_text(odd) == '[0 turns]\n?: \n3: [1] 7 {"a": 1}'


def test_the_page_shows_episodes_and_ranks_environments(tmp_path: Path) -> None:
    run = played(tmp_path, calculation(), failed(), guesses(["1", "2"], "max_turns", 0.0))
    page.write(run)
    text = run.report.read_text(encoding="utf-8")
    part = without_tags(text.split("<h2 id=environments>")[1].split("<h2")[0])
    by_failures, by_time = part.split("By time")
    assert "guess 6 50.0% 3 timeout 50.0% 50.0% failed 50.0% max_turns – –" in by_failures
    assert "agent 3 0.0% 0.0% 100.0% done 50.0% 100.0% 3 calculator" in by_failures
    assert by_failures.index("guess 6") < by_failures.index("agent 3")
    assert "agent 3.375 6 0.5625 1 3 1 7 2 100.0%" in by_time
    assert by_time.index("agent 3.375") < by_time.index("guess 3")
    assert "In 25.0% of the rollouts' time nobody sampled" in part
    samples = text.split("<h2 id=samples>")[1].split("<h2")[0]
    assert '<details class="talk"><summary>3 turns, done' in samples
    assert '<div class="own"><div class="who wrong">assistant <span class="note">turn 2' in samples
    assert "<details><summary>thinking</summary>Better to compute it.</details>" in samples
    assert "<details><summary>call calculator</summary>calculator(" in samples
    assert '<span class="seen">«20»«21»</span><span class="own">«13»</span>' in samples
    assert '<div class="bad">failed: timeout: no answer within 30 s</div>' in samples
    assert 'value="unfinished"' in samples and "slowest answer" in samples
    assert "failed: timeout" in next(
        row for row in samples.split("<tr ") if 'data-unfinished="0"' in row
    )


def test_a_page_without_environments_says_nothing_of_them(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    Records(run.metrics).append(metrics_line(1, 0.5, {"right": 0.5}))
    Records(run.samples).append(sample_line(1, 0, "a", 1.0, {"right": 1.0}))
    page.write(run)
    text = run.report.read_text(encoding="utf-8")
    assert "environments" not in text.split("<h1>")[0].split("<body>")[1]
    assert "<h2 id=environments>" not in text and "slowest answer" not in text


def test_what_stands_in_an_episode_is_text_on_the_page(tmp_path: Path) -> None:
    rollout = guesses([HOSTILE, HOSTILE])
    assert rollout.episode is not None
    call = {"function": {"name": HOSTILE, "arguments": HOSTILE}}
    messages = tuple(
        {**message, "name": HOSTILE, "reasoning_content": HOSTILE, "tool_calls": [call]}
        for message in rollout.episode.messages
    )
    turns = tuple(replace(turn, problem=HOSTILE) for turn in rollout.episode.turns)
    episode = Episode(HOSTILE, messages, turns, "failed", (HOSTILE, HOSTILE), {HOSTILE: HOSTILE})
    run = played(tmp_path, replace(rollout, episode=episode))
    page.write(run)
    text = run.report.read_text(encoding="utf-8")
    assert text.count("<script>alert(1)") == 0 and "\x1b" not in text and "\u202e" not in text
    shown = str(escape(HOSTILE)).replace("\x1b", "␛").replace("\u202e", "[U+202E]")
    assert text.count(shown) > 10
    for tag in ("details", "div", "td", "span"):
        assert text.count(f"<{tag}>") + text.count(f"<{tag} ") == text.count(f"</{tag}>"), tag


def test_an_environment_is_a_reward_among_the_rewards(tmp_path: Path) -> None:
    run = played(tmp_path, guesses(["1"]))
    run.spec.write_text(
        '[[environment]]\ntype = "./e.py:Guess"\nname = "guess"\nweight = 2.0\n'
        '[[reward]]\ntype = "length"\n'
    )
    assert SavedRun(run).roles == {"guess": Role("./e.py:Guess", 2.0), "length": Role("length")}
    page.write(run)
    part = without_tags(run.report.read_text(encoding="utf-8").split("<h2 id=rewards>")[1])
    assert "guess ./e.py:Guess weight 2 0.5 0.5" in part


def test_a_failed_episode_in_quarantine_shows_its_conversation(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    Records(run.quarantine).append(
        {"step": 3, "reward": "guess", "environment": "guess", "reason": "crash", "detail": "gone",
         "prompt_id": "n/1", "sample": 2, "turn": 1, "prompt": "p", "answer": None,
         "completion": "50", "seconds": 1.5,
         "messages": [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": "50"}]}
    )  # fmt: skip
    page.write(run)
    text = run.report.read_text(encoding="utf-8").split("<h2 id=quarantine>")[1]
    assert "guess crash 1" in without_tags(text) and "turn 1" in text
    assert "user: &lt;script&gt;" in text and "assistant: 50" in text


def test_a_page_of_long_episodes_can_be_mailed(tmp_path: Path) -> None:
    run = run_folder(tmp_path, {"guess": 1.0})
    Records(run.metrics).append(metrics_line(1, 0.5, {"guess": 0.5}))
    for step in range(1, 9):
        long = guesses([f"{step} {i} " + "word " * 300 for i in range(30)])
        Records(run.samples).extend(lines_of(step, *(long for _ in range(8))))
        Records(run.samples).extend(
            lines_of(step, *(guesses([f"{step} {i} {n} " * 200]) for i in range(9) for n in "ab"))
        )
    page.write(run)
    assert 1_000_000 < len(run.report.read_bytes()) < 3_000_000


def test_columns_tell_episodes_apart(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    limited = guesses(["1"], "max_turns", 0.0)
    Records(path).extend(lines_of(1, calculation(), failed(), limited))
    Records(path).append(sample_line(2, 0, "a", 1.0, {"right": 1.0}))
    broken = lines_of(3, guesses(["1", "2"]))[0]
    Records(path).append(broken | {"turns": 7, "end": ["done"]})
    found = read_columns(path)
    np.testing.assert_equal(found.trouble_N, [0.0, 2.0, 1.0, np.nan, np.nan])
    np.testing.assert_equal(found.turns_N, [3.0, 2.0, 1.0, np.nan, np.nan])
    np.testing.assert_equal(found.slowest_N, [1.0, 0.25, 0.25, np.nan, np.nan])
    assert found.damage.trimmed == 1 and found.damage.skipped == 0


def test_equal_texts_of_different_conversations_are_different(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    one, other = guesses(["1", "2"]), guesses(["1", "2"])
    assert other.episode is not None
    messages = ({"role": "user", "content": "another start"}, *other.episode.messages)
    Records(path).extend(lines_of(1, one, one, changed(other, messages=messages)))
    first, second, third = read_columns(path).texts_N
    assert first == second != third


@pytest.mark.parametrize("width", [80, 200])
def test_the_view_shows_an_episode_in_short(tmp_path: Path, width: int) -> None:
    folder = played(tmp_path, guesses(["1", "2\x1b[2J"], "max_turns", 0.0), guesses(["42"]))
    run = Followed(folder)
    run.look()
    lines = [line.plain for line in draw_run(run, width, 40)]
    text = "\n".join(lines)
    assert "turns" in text and "1.500" in text
    assert "guess 1.500 turns: 50% done, 50% max_turns; idle 25%" in text
    assert "[1 turn, done" in text and "\x1b" not in text
    assert max(map(len, lines)) <= width


def test_a_view_without_environments_has_no_line_of_turns(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    Records(run.metrics).append(metrics_line(1, 0.5, {"right": 0.5}))
    followed = Followed(run)
    followed.look()
    text = "\n".join(line.plain for line in draw_run(followed, 80, 40))
    assert "turns" not in text and "episodes" not in text
