"""`drpo data show`: prompts, lengths and sizes, as the run itself would have them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from drpo_cli.plan import make_plan
from drpo_cli.spec import load
from drpo_cli.step import build as assemble
from drpo_cli.tools.preview import completions, data_show
from support.command import drpo_here as drpo
from support.models import tiny_model

CHAT = (
    "{% for m in messages %}<bos>{{ m['role'] }}: {{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<bos>{% endif %}"
)
SPEC = """\
[run]
name = "test"
steps = 1
[model]
path = "model"
[[data]]
type = "arithmetic"
weight = 3
rewards = ["exact_match"]
[[data]]
type = "jsonl"
path = "rows.jsonl"
weight = 1
chat = true
system = "be brief"
template = "{{ prompt }}, level {{ level }}?"
max_prompt_tokens = 60
[rollout]
engine = "transformers"
prompts_per_step = 4
max_new_tokens = 12
[[reward]]
type = "regex"
name = "exact_match"
pattern = "1"
[[reward]]
type = "repetition"
weight = 0.1
[eval]
problems = 20
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model(tmp_path_factory.mktemp("preview") / "model")
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


@pytest.fixture
def spec(tmp_path: Path, model: Path) -> Path:
    rows = [
        {"prompt": "abc " * (1 + 9 * (i % 2)) + str(i), "answer": i if i % 3 else None, "level": i}
        for i in range(80)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "model").symlink_to(model)
    path = tmp_path / "run.toml"
    path.write_text(SPEC)
    return path


def show(spec: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return drpo("data", "show", spec, *arguments, COLUMNS="100")


def test_what_is_shown_is_what_is_trained_on(spec: Path) -> None:
    done = show(spec, "-n", 8)
    assert done.returncode == 0, done.stderr
    loaded = load(spec)
    tokenizer = assemble.tokenizer(loaded.model)
    stream = assemble.data(make_plan(loaded, 1), tokenizer, rank=0).stream
    at = 0
    for prompt in [*stream.next(), *stream.next()]:
        title = done.stdout.index(f"{prompt.id} · {len(prompt.token_ids)} tokens")
        assert title >= at
        at = done.stdout.index(f"{prompt.text}◂\n", title)
    assert "<bos>system: be brief<eos><bos>user: abc " in done.stdout


def test_it_says_who_scores_and_what_else_a_row_has(spec: Path) -> None:
    out = show(spec, "-n", 4).stdout
    arithmetic = next(line for line in out.splitlines() if "  arithmetic/" in line)
    assert arithmetic.endswith("scored by exact_match")
    row = next(line for line in out.splitlines() if "  jsonl/" in line)
    assert row.endswith("scored by exact_match, repetition")
    assert "   level = " in out


def test_shares_sizes_and_what_is_skipped(spec: Path) -> None:
    done = show(spec, "-n", 0)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "arithmetic 10,000 3 75.0% 100% 6–6" in lines
    assert any(line.startswith("jsonl 80 1 25.0%") for line in lines)
    held_out = next(line for line in lines if line.startswith("held out"))
    assert held_out.endswith("of these rows, never trained on")
    assert "room 500 tokens for a prompt: 512 of context − 12 new ones" in lines
    skipped = next(line for line in lines if line.startswith("skipped before 1,000 prompts"))
    assert skipped.endswith(" by max_prompt_tokens") and int(skipped.split()[4]) > 0
    bars = [line for line in lines if "█" in line]
    assert sum(int(line.split()[-1].replace(",", "")) for line in bars) == 1000


def test_what_would_stop_the_run_is_said_with_the_row(spec: Path) -> None:
    done = show(spec, "--set", "data[1].template={{ prompt }} {{ gone }}")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "data jsonl/" in done.stderr and "'gone'" in done.stderr
    done = show(spec, "--set", "rollout.context_length=15")
    assert (done.returncode, "the prompt has" in done.stderr) == (2, True)


def test_two_beginnings_of_sequence_are_said(spec: Path) -> None:
    spec.write_text(SPEC.replace('chat = true\nsystem = "be brief"\n', ""))
    done = show(spec, "-n", 0, "--set", "data[1].template=<bos><bos>{{ prompt }}")
    assert "note: data jsonl: prompts begin with two <bos>: " in done.stderr
    assert "prompts of arithmetic" not in done.stderr


def test_the_model_folder_is_made_first_where_it_is_missing(tmp_path: Path, model: Path) -> None:
    (tmp_path / "make.py").write_text(
        f"import shutil, sys\nshutil.copytree({str(model)!r}, sys.argv[1])\n"
    )
    spec = tmp_path / "run.toml"
    arithmetic = SPEC[: SPEC.index('[[data]]\ntype = "jsonl"')] + SPEC[SPEC.index("[rollout]") :]
    spec.write_text(arithmetic.replace('path = "model"', 'path = "made"\nprepare = "make.py"'))
    done = show(spec, "-n", 1)
    assert done.returncode == 0, done.stderr
    assert "preparing the model: python" in done.stderr
    assert (tmp_path / "made" / "config.json").is_file()


GUESS = """
from drpo_cli.environments import Step
class Twice:
    again = False
    def start(self, row, rng): return f"Guess {row.prompt}"
    def step(self, action):
        done, self.again = self.again, True
        return Step("no", reward=1.0, done=done)
"""


@pytest.fixture
def episodes(spec: Path) -> Path:
    """The spec of a run with an environment that ends after two turns."""
    (spec.parent / "mine.py").write_text(GUESS)
    data = SPEC.partition("[[data]]")[0] + '[[data]]\ntype = "numbered"\nchat = true\n'
    rest = "[rollout]" + SPEC.partition("[rollout]")[2].partition("[[reward]]")[0]
    tail = '[[environment]]\ntype = "./mine.py:Twice"\nworkers = 2\n[eval]\nproblems = 20\n'
    spec.write_text(f"{data}{rest}samples_per_prompt = 2\n{tail}")
    return spec


def test_prompts_of_an_environment_name_it(
    episodes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    data_show.show(episodes, (), 2)
    said = capsys.readouterr().out
    assert said.count("no answer · played in Twice, which says what the model sees\n") == 2
    assert "<bos>user: " in said


def test_rewards_are_tried_on_episodes(episodes: Path) -> None:
    """`drpo reward test --generate` plays them, and its lines keep their messages."""
    groups_P = completions.sample(episodes, (), 1)
    (line, _) = [completions.as_line(groups_P[0], i) for i in range(2)]
    number = groups_P[0].prompt.metadata["number"]
    assert line["messages"][0] == {"role": "user", "content": f"Guess {number}"}
    assert [message["role"] for message in line["messages"]] == ["user", "assistant"] * 2 + ["user"]
