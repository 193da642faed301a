"""`drpo environment list | show`, and what other verbs say of a run with environments."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from drpo_cli import plugins
from drpo_cli.cli import completion
from drpo_cli.errors import UserError
from drpo_cli.spec import load
from drpo_cli.tools.check import parts_can_be_called, tools_exist
from drpo_cli.tools.doctor import needs
from drpo_cli.tools.preview.environment_pages import list_environments, show
from drpo_cli.tools.preview.reward_test import try_rewards
from support.command import drpo
from support.specs import DATA, HEAD, REWARD, ROLLOUT, problem, write

CODE = '''
from drpo_cli.environments import EnvironmentSettings, Step

class Guess:
    """Guess a number.

    It answers "higher" or "lower".
    """
    class Config(EnvironmentSettings):
        """Options."""
        limit: int = 100
        """The largest number."""
        word: str
        """What to say."""
    def __init__(self, config): ...
    def start(self, row, rng): return "Guess!"
    async def step(self, action: str) -> Step: return Step("no")
'''
GUESS = '[[environment]]\ntype = "./mine.py:Guess"\nword = "a"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_the_list_names_every_built_in_environment(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    list_environments()
    said = capsys.readouterr().out
    assert "./file.py:Name or package.module:Name" in said
    for name in plugins.available("environments"):
        assert f"{name} " in said
    assert "does not load" not in said
    assert completion.environments("") == plugins.names("environments")


def test_a_page_has_methods_options_and_a_table_that_loads(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    type_ = f"{folder}/mine.py:Guess"
    show(type_)
    page = capsys.readouterr().out
    assert page.startswith(f"{type_}\nGuess a number.\n\nIt answers")
    assert "  def start(self, row, rng)\n  async def step(self, action: str) -> " in page
    assert "several episodes in each (async)" in page
    own, shared = page.index("The largest number."), page.index("max_turns")
    assert own < shared < page.index("[[environment]]")
    pasted = page[page.index("[[environment]]") :].replace("word = …  # text", 'word = "x"')
    (table,) = tomllib.loads(pasted)["environment"]
    assert table == {"type": type_, "word": "x"}
    assert "# limit = 100" in pasted
    load(write(folder, HEAD + DATA + pasted))


def test_the_verbs_are_there(folder: Path) -> None:
    done = drpo("environment", "show", "gone")
    assert done.returncode == 2 and "there is no environment 'gone'" in done.stderr
    assert drpo("environment", "list").returncode == 0


def test_check_refuses_a_class_that_cannot_be_called(folder: Path) -> None:
    (folder / "mine.py").write_text(CODE + "\nclass Half:\n    def start(self, row, rng, x): ...\n")
    path = write(folder, HEAD + DATA + ROLLOUT + GUESS)
    assert list(parts_can_be_called(load(path))) == []
    half = '[[environment]]\ntype = "./mine.py:Half"\n'
    (wrong,) = parts_can_be_called(load(write(folder, HEAD + DATA + ROLLOUT + half)))
    assert wrong.key == ("environment", 0, "type")
    assert "Half has no `step`; write `def step(self, action)`" in wrong.what
    assert "`start` takes row, rng, x, but it gets row and rng" in wrong.what


def test_check_refuses_tools_that_do_not_exist(folder: Path) -> None:
    tools = '[[environment]]\ntype = "tools"\ntools = '
    path = write(folder, f"{HEAD}{DATA}{ROLLOUT}{REWARD}{tools}['calculater', 'mcp: gone']\n")
    (wrong,) = tools_exist(load(path))
    assert wrong.key == ("environment", 0, "tools")
    assert "there is no tool 'calculater'; did you mean 'calculator'?" in wrong.what
    good = load(path, ["environment[0].tools=['calculator', 'mcp: gone', 'python']"])
    assert list(tools_exist(good)) == []


def test_tools_alone_give_no_reward(folder: Path) -> None:
    tools = '[[environment]]\ntype = "tools"\ntools = ["calculator"]\n'
    assert "environment[0].weight: is 0, and no [[reward]] adds to the total" in problem(
        folder, HEAD + DATA + ROLLOUT + tools
    )


def test_reward_test_asks_for_rewards(folder: Path) -> None:
    path = write(folder, HEAD + DATA + ROLLOUT + GUESS)
    with pytest.raises(UserError, match=r"has no \[\[reward\]\], and the own reward of an env"):
        try_rewards(path, [], None, None, None)


def test_doctor_counts_the_processes_of_environments_and_finds_their_sandbox(folder: Path) -> None:
    text = HEAD + DATA + ROLLOUT + GUESS + "workers = 5\n"
    spec = load(write(folder, text + REWARD))
    assert needs.count_processes(spec) == 7 and needs.sandbox_of(spec) == "none"
    spec = load(write(folder, text + 'tools = ["python: seconds=5"]\n'))
    assert needs.count_processes(spec) == 5 and needs.sandbox_of(spec) == "auto"
    spec = load(write(folder, text + 'tools = ["python: backend=plain seconds=5"]\n'))
    assert needs.sandbox_of(spec) == "plain"
