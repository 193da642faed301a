"""Secrets are masked wherever they may be shown or written."""

from __future__ import annotations

import base64
import html
import json
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from drpo_cli import secrets
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected, load
from drpo_cli.rewards import judge
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.runs.events import say
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Records
from drpo_cli.types import Group, Prompt, Rollout

KEY = 'sk-a"b\\c/d+é&<12>'


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    secrets.keep(["THE_KEY"])


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


WAYS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "json": json.dumps,
    "json without ascii": lambda text: json.dumps(text, ensure_ascii=False),
    "json twice": lambda text: json.dumps(json.dumps(text)),
    "json of slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "every letter escaped": lambda text: "".join(f"\\u{ord(one):04X}" for one in text),
    "repr": repr,
    "ascii": ascii,
    "bytes": lambda text: repr(text.encode()),
    "repr of json": lambda text: repr(json.dumps(text)),
    "url": lambda text: urllib.parse.quote(text, safe=""),
    "url in lower case": lambda text: urllib.parse.quote(text, safe="").lower(),
    "form": urllib.parse.quote_plus,
    "html": html.escape,
    "base64": in_base64,
    "basic authentication": lambda text: in_base64(f"user:{text}"),
    "base64, moved by one": lambda text: in_base64(f"u:{text}!"),
    "base64, moved by two": lambda text: in_base64(f"me:{text}!"),
    "base64 for urls": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_is_masked_however_it_is_written(way: str) -> None:
    written = WAYS[way](KEY)
    masked = secrets.mask(f"before {written} after")
    assert masked.startswith("before ") and masked.endswith(" after")
    left = masked.removeprefix("before ").removesuffix(" after")
    assert secrets.MASK in left and len(left.replace(secrets.MASK, "")) <= 12
    assert not any(part in left for part in (KEY, KEY[:6], KEY[6:], written[4:-4]))


def test_a_masked_line_of_json_is_json() -> None:
    for text in (KEY, f'"{KEY}"', f"\\{KEY}\\", f"\n{KEY}\n", f'{{"{KEY}": "\\n"}}'):
        assert json.loads(secrets.mask(json.dumps({"a": text})))["a"].count(secrets.MASK) == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Bearer abcdefgh", "the key abcdefgh"),
        ("Basic " + in_base64("user:password"), "the password password"),
        ("abcdefgh\n", "the key abcdefgh"),
    ],
)
def test_what_follows_a_scheme_is_the_secret(
    value: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", value)
    assert secrets.mask(shown).endswith(f" {secrets.MASK}")
    assert secrets.mask("Bearer of good news, and Basic") == "Bearer of good news, and Basic"


def test_what_is_too_short_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "12345")
    assert secrets.mask("12345 of 123456") == "12345 of 123456"


def test_a_longer_secret_comes_before_one_that_it_begins_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THE_KEY", "abcdef")
    monkeypatch.setenv("OTHER_KEY", "abcdefgh")
    secrets.keep(["OTHER_KEY"])
    assert secrets.mask("abcdefgh abcdef") == f"{secrets.MASK} {secrets.MASK}"


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY"])
def test_keys_that_libraries_read_are_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hidden-value")
    assert secrets.mask("a hidden-value") == f"a {secrets.MASK}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://user:pass@host/x", "see https://***@host/x"),
        ("see postgresql+psycopg://u:p@host", "see postgresql+psycopg://***@host"),
        ("https://host/x?y=1&api_key=abc&z=2", "https://host/x?y=1&api_key=***&z=2"),
        ("https://host?monkey=1", "https://host?monkey=1"),
        ("https://host?X-Amz-Signature=abc#a", "https://host?X-Amz-Signature=***#a"),
        ("https://host/a@b?y=1", "https://host/a@b?y=1"),
        ("mail me@host, or a:b@c", "mail me@host, or a:b@c"),
    ],
)
def test_secrets_in_urls(text: str, shown: str) -> None:
    assert secrets.mask_urls(text) == shown
    assert secrets.in_url(text.removeprefix("see ")) == (text != shown)


def test_the_edges_mask(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.error(0).parent.mkdir()
    say(folder, f"failed: {KEY}")
    folder.record_error(0, 1, f"Traceback\nValueError: {KEY}")
    Records(folder.quarantine).extend([{"detail": KEY, "n": [{"completion": f"{KEY}!"}]}])
    for file in (folder.events, folder.error(0), folder.quarantine):
        text = file.read_text()
        json.loads(text)
        assert secrets.MASK in text and "c/d+" not in text
    error = UserError(f"{KEY} of https://user:pass@host", f"not {KEY}")
    assert str(error) == "*** of https://***@host; not ***"
    assert (error.what, error.fix) == ("*** of https://***@host", "not ***")


REWARD = """
import os, sys
from typing import Any
from drpo_cli.settings import RewardSettings

class Config(RewardSettings):
    own_env: str = "OWN_KEY"

def prints(completion: str, config: Config) -> float:
    print("printed", os.environ[config.own_env])
    sys.stderr.write("written " + os.environ[config.own_env] + "\\n")
    return 1.0

def raises(completion: str, config: Config) -> float:
    raise ValueError("x" * 1990 + os.environ[config.own_env])

def returns(completion: str, config: Config) -> Any:
    return "x" * 60 + os.environ[config.own_env]
"""


def test_a_reward_of_the_users_gives_no_secret_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    value = "own-secret-of-a-length-that-a-cut-goes-through"
    monkeypatch.setenv("OWN_KEY", value)
    (tmp_path / "own.py").write_text(REWARD)
    group = Group(
        Prompt("p/1", "1+1=", (), "2", {}), (Rollout((1,), (-0.1,), f"is it {value}", False),)
    )
    details = ""
    for name in ("prints", "raises", "returns"):
        type = f"{tmp_path / 'own.py'}:{name}"
        config = load("rewards", type).Config(workers=1, tries=1)
        with Grader([Selected("rewards", type, config)]) as grader:
            graded = grader.score([group])
        details += f"{graded.fatal}" + "".join(one["detail"] for one in graded.quarantine)
        Records(tmp_path / "quarantine.jsonl").extend(graded.quarantine)
        if name == "raises":
            assert graded.fatal is not None and "xxxx" in graded.fatal
    printed = capfd.readouterr()
    shown = printed.out + printed.err + details + (tmp_path / "quarantine.jsonl").read_text()
    assert "printed ***" in shown and "written ***" in shown and "own-se" not in shown


def test_a_bug_of_ours_shows_no_secret() -> None:
    code = (
        "import sys; from drpo_cli import cli, secrets; from drpo_cli.cli.common import app\n"
        "secrets.keep(['THE_KEY'])\n"
        "import os\n"
        "@app.command()\n"
        "def breaks():\n    raise RuntimeError(os.environ['THE_KEY'])\n"
        "sys.argv = ['drpo', 'breaks']; cli.main()\n"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 1 and "RuntimeError: ***" in ran.stderr and "c/d+" not in ran.stderr


def test_a_log_shows_no_secret(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from drpo_cli import processes, secrets\n"
        "processes.print_to(Path(sys.argv[1]))\n"
        "secrets.keep(['THE_KEY'])\n"
        "print('printed', os.environ['THE_KEY'])\n"
        "raise RuntimeError(os.environ['THE_KEY'])\n"
    )
    log = tmp_path / "logs" / "log"
    subprocess.run([sys.executable, "-c", code, log], check=False)
    text = log.read_text()
    assert "printed ***" in text and "RuntimeError: ***" in text and "c/d+" not in text


SPEC = """
[run]
name  = "x"
steps = 1
[model]
path = "m"
[[data]]
type = "inline"
[[reward]]
type = "http"
url  = "{url}"
"""


def test_a_key_itself_in_a_spec_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    for extra in ({"api_key": "sk-of-openai"}, {"token": KEY}):
        with pytest.raises(ValidationError, match="holds a password or a key") as caught:
            judge.Config(model="m", rubric="r", extra=extra)
        assert "name the environment variable" in caught.value.errors()[0]["msg"]
    assert judge.Config(model="m", rubric="not sk-of-openai itself").model == "m"


@pytest.mark.parametrize("where", ["file", "--set"])
def test_a_secret_in_a_spec_is_refused_and_not_shown(where: str, tmp_path: Path) -> None:
    url = "https://user:hidden-password@host/score?api_key=hidden-key"
    path = tmp_path / "run.toml"
    path.write_text(SPEC.format(url=url if where == "file" else "http://host"))
    overrides = ["--set", f"reward[0].url='{url}'"] if where == "--set" else []
    for options in ([], ["--json"]):
        command = [sys.executable, "-m", "drpo_cli", "check", str(path), *overrides, *options]
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        shown = ran.stdout + ran.stderr
        assert ran.returncode == 2 and "holds a password or a key" in shown, shown
        assert "hidden" not in shown


@pytest.mark.parametrize("text", ["x", "?x", "://x", "sk-a", "\\u0073", "%73", "&#", "key="])
def test_long_texts_take_no_time(text: str) -> None:
    long, began = text * (10**6 // len(text)), time.process_time()
    secrets.mask_urls(secrets.mask(long))
    assert time.process_time() - began < 5
