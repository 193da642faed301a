"""`drpo environment try`: an episode played by hand, with what is typed from a pipe."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.console import open_console
from drpo_cli.errors import UserError
from drpo_cli.runs.metrics import SampleRecord
from drpo_cli.runs.reader import check
from drpo_cli.spec import load
from drpo_cli.tools.preview.environment_model import print_rows, spell_tokens
from drpo_cli.tools.preview.environment_rows import choose_start
from drpo_cli.tools.preview.environment_try import parse_call
from support.terminal import on_terminal

ENVIRONMENTS = '''\
"""Games."""

from drpo_cli.environments import EnvironmentSettings, Step


class Guess:
    """Guess a number."""

    class Config(EnvironmentSettings):
        limit: int = 100

    def __init__(self, config):
        self.limit = config.limit

    def start(self, row, rng):
        self.secret = rng.randint(1, self.limit)
        return f"{row.prompt} It is {self.secret}."

    def step(self, action: str) -> Step:
        if action == "crash":
            raise RuntimeError("boom")
        if action.strip() == str(self.secret):
            return Step("Right.", 1.0, done=True, info={"secret": self.secret})
        return Step(f"{action!r} is wrong\\x1b[2J", -0.25)


class Other:
    """Ends at once."""

    def start(self, row, rng):
        return [{"role": "system", "content": "Be brief."}, *row.messages]

    def step(self, action: str) -> Step:
        return Step(done=True)
'''
SPEC = """\
[run]
name = "game"
steps = 1
[model]
path = "some-org/some-model"
[[data]]
type = "jsonl"
path = "rows.jsonl"
template = "Q: {{ prompt }}"
[[data]]
type = "jsonl"
path = "rows.jsonl"
environment = "other"
chat = true
system = "Be kind."
[rollout]
engine = "transformers"
max_new_tokens = 8
[[environment]]
type = "./environments.py:Guess"
name = "guess"
max_turns = 3
[[environment]]
type = "./environments.py:Other"
name = "other"
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "environments.py").write_text(ENVIRONMENTS)
    rows = [{"prompt": f"Number {i}?", "answer": str(i)} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.toml").write_text(SPEC)
    return tmp_path / "run.toml"


def play(typed: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "drpo_cli", "environment", "try", *map(str, arguments)]
    return subprocess.run(
        command, input=typed, capture_output=True, text=True, timeout=120, check=False
    )


def test_an_episode_that_is_won_is_shown_and_recorded(spec: Path) -> None:
    out = spec.parent / "episode.jsonl"
    seen = play("", spec, "--seed", 3, "--row", 2)
    secret = seen.stdout.split("It is ")[1].split(".")[0]
    done = play(f"<<<\na\nb\n>>>\n{secret}\n", spec, "--seed", 3, "--row", 2, "--json", out)
    assert done.returncode == 0, done.stderr
    assert "guess · row jsonl/2 · seed 3 · at most 3 turns\n" in done.stdout
    assert f"user:\nQ: Number 2? It is {secret}.\nturn 1 > <<<\n... a\n... b\n" in done.stdout
    assert r"'a\nb' is wrong\u001b[2J" in done.stdout and "\x1b" not in done.stdout
    assert "reward -0.25" in done.stdout
    assert 'done · info {"secret": ' in done.stdout
    assert done.stdout.endswith(f"done after 2 turns: reward 0.75\nwrote {out}\n")
    record = json.loads(out.read_text())
    assert (record["environment"], record["end"], record["reward"]) == ("guess", "done", 0.75)
    assert [message["role"] for message in record["messages"]] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert record["messages"][1]["content"] == "a\nb"
    assert [turn["reward"] for turn in record["turns"]] == [-0.25, 1.0]
    _, wrong = check({**record, "step": 0, "prompt": "", "completion": ""}, SampleRecord)
    assert not wrong


def test_it_ends_where_its_turns_do_where_nothing_more_is_typed_and_where_it_fails(
    spec: Path,
) -> None:
    done = play("a\nb\nc\nd\n", spec)
    assert done.returncode == 0 and done.stdout.endswith("max_turns after 3 turns: reward -0.75\n")
    out = spec.parent / "left.jsonl"
    done = play("a\n", spec, "--json", out)
    assert done.returncode == 0 and "left after 1 turn: reward -0.25\n" in done.stdout
    assert json.loads(out.read_text())["end"] is None
    done = play("a\ncrash\n", spec)
    assert done.returncode == 1 and "failed after 2 turns" in done.stdout
    assert "the environment failed: exception: RuntimeError: boom" in done.stdout
    assert "environments.py:21" in done.stdout


def test_the_other_environment_has_its_own_rows_and_messages(spec: Path) -> None:
    done = play("x\n", spec, "--environment", "other", "--row", "jsonl#2/1")
    assert done.returncode == 0, done.stderr
    said = "system:\nBe kind.\nsystem:\nBe brief.\nuser:\nNumber 1?\nturn 1 > x\n"
    assert said in done.stdout


@pytest.mark.parametrize(("key", "code"), [(b"\x03", 130), (b"\x04", 0)])
def test_on_a_terminal_it_ends_cleanly_by_a_key(spec: Path, key: bytes, code: int) -> None:
    with on_terminal("environment", "try", spec) as terminal:
        terminal.until(lambda text: "turn 1 >" in text)
        terminal.type(b"a\n")
        terminal.until(lambda text: "turn 2 >" in text)
        terminal.type(key)
        assert terminal.end() == code
        assert "left after 1 turn: reward -0.25" in terminal.text
        assert "Traceback" not in terminal.text


@pytest.mark.parametrize(
    ("environment", "row", "said"),
    [
        (None, "3", "--row 3: jsonl has the rows 0 to 2; name one of them"),
        (None, "words/1", "--row words/1: the environment has no source 'words'; name jsonl"),
        (None, "first", "--row first: not the number of a row; write a number, or an id: jsonl/0"),
        ("chess", "0", "--environment chess: the spec has none of this name; name one of guess, o"),
    ],
)
def test_what_is_not_there_is_refused(
    spec: Path, environment: str | None, row: str, said: str
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        choose_start(load(spec, []), environment, row)


def test_a_spec_without_environments_or_one_without_rows(spec: Path) -> None:
    text = SPEC.replace('environment = "other"\n', "")
    spec.write_text(text)
    with pytest.raises(UserError, match="no source of the spec uses it"):
        choose_start(load(spec, []), "other", "0")
    spec.write_text(text.split("[[environment]]")[0] + '[[reward]]\ntype = "exact_match"\n')
    with pytest.raises(UserError, match="has no \\[\\[environment\\]\\]"):
        choose_start(load(spec, []), None, "0")


def test_what_an_environment_gets_of_a_row(spec: Path) -> None:
    row = choose_start(load(spec, []), "guess", "1").row
    assert (row.id, row.prompt, row.answer) == ("jsonl/1", "Q: Number 1?", "1")
    assert row.messages == ({"role": "user", "content": "Q: Number 1?"},)


def test_a_call_of_a_tool_is_typed_as_a_name_and_json() -> None:
    tools: list[dict[str, Any]] = [{"type": "function", "function": {"name": "add"}}]
    assert parse_call('add {"a": 1}', tools) == ("add", {"a": 1}, "")
    assert parse_call("add", tools) == ("add", {}, "")
    for text, said in (
        ("sub {}", "no tool 'sub'; there is add"),
        ("add {", "the arguments are not JSON"),
        ("add [1]", "the arguments are not an object"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_call(text, tools)


def test_each_sampled_token_is_spelled_and_those_of_one_character_together() -> None:
    texts = {1: b" a", 2: b"b", 3: "é".encode()[:1], 4: "é".encode()[1:], 5: b"\xff", 6: b"c"}

    def decode(ids: Sequence[int]) -> str:
        return b"".join(texts[token] for token in ids).decode(errors="replace")

    assert list(spell_tokens([1, 2, 3, 4, 6], 1, 5, decode)) == ["b", "é", "c"]
    assert "".join(spell_tokens([1, 5, 6], 1, 3, decode)) == "\ufffdc"
    assert list(spell_tokens([1, 2, 3], 1, 3, decode)) == ["b", "\ufffd"]


@pytest.mark.parametrize("coloured", [True, False])
def test_the_mask_shows_with_and_without_colours(coloured: bool) -> None:
    parts = [
        {"sampled": 0, "text": "guess "},
        {"sampled": 1, "text": "42", "tokens": ["4", "2"]},
        {"sampled": 0, "text": "lower"},
    ]
    out = io.StringIO()
    system = "standard" if coloured else None
    console = open_console(out, 80, force_terminal=coloured, color_system=system)
    print_rows(console, [{"parts": parts}, {"parts": parts}])
    text = out.getvalue()
    if coloured:
        assert "\x1b[90mguess \x1b[0m\x1b[1;36m4\x1b[0m\x1b[1;32m2\x1b[0m\x1b[90mlower" in text
    else:
        assert "guess [[42]]lower\n" in text
        assert "row 2 of 2: the chat template rewrote what came before\n" in text
