"""Specs with environments: what is loaded, and the rules, each broken once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli
from jsonschema import Draft202012Validator

from drpo_cli.plan import describe, make_plan
from drpo_cli.spec import Spec, load, schema
from drpo_cli.spec.dumping import dump, settings_of
from drpo_cli.spec.lengths import longest_sampled, room_for_responses
from drpo_cli.tools.memory import estimate
from support.specs import DATA, HEAD, REWARD, ROLLOUT, problem, problems, warnings, write

CODE = '''
from drpo_cli.environments import EnvironmentSettings, Step

class Guess:
    """Guess a number."""
    class Config(EnvironmentSettings):
        limit: int = 100
        """The largest number."""
    def __init__(self, config): ...
    def start(self, row, rng): return "Guess!"
    def step(self, action: str): return Step("no")

class Slow(Guess):
    """The same, over a network."""
    async def step(self, action: str): return Step("no")

def search(query: str) -> str:
    """Searches."""
    return query
'''
BASE = HEAD + DATA + ROLLOUT
GUESS = '[[environment]]\ntype = "./mine.py:Guess"\n'
OTHER = f'{GUESS}name = "other"\n'
METRIC = f"{REWARD}weight = 0\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


def test_an_environment_has_its_class_its_name_and_its_options(folder: Path) -> None:
    spec = load(write(folder, f"{BASE}{GUESS}limit = 7\n{OTHER}"))
    guess, other = spec.environment
    assert guess.type == f"{folder}/mine.py:Guess" and guess.plugin.entry.__name__ == "Guess"
    assert guess.config.model_dump()["limit"] == 7
    assert (guess.config.name, other.config.name) == ("Guess", "other")
    assert spec.reward == ()
    assert spec.environment_of(spec.data[0].config) == guess
    source = spec.data[0].config.model_copy(update={"environment": "other"})
    assert spec.environment_of(source) == other


def test_a_dumped_spec_is_the_same_from_any_folder(folder: Path) -> None:
    tools = """tools = [
        'calculator', 'python: seconds=5', './mine.py:search', './mine.py:Wiki: folder=a/b.py',
        'mcp: python ./mine.py "a b"', 'mcp[add, get]: TOKEN=$TOKEN python mine.py',
    ]
    """
    spec = load(write(folder, f"{BASE}environment = 'Guess'\n{GUESS}{tools}".replace(ROLLOUT, "")))
    assert spec.environment[0].config.tools == (
        "calculator",
        "python: seconds=5",
        f"{folder}/mine.py:search",
        f"{folder}/mine.py:Wiki: folder=a/b.py",
        f"mcp: python {folder}/mine.py 'a b'",
        f"mcp[add, get]: 'TOKEN=$TOKEN' python {folder}/mine.py",
    )
    assert spec.environment[0].config.needs_environment() == ("TOKEN",)
    again = folder / "elsewhere" / "run.toml"
    again.parent.mkdir()
    again.write_text(dump(spec))
    assert load(again) == spec
    assert "reward" not in tomli.loads(dump(spec))
    name = next(one for one in settings_of(spec) if one.key == ("environment", 0, "name"))
    assert name.value == name.default == "Guess"


@pytest.mark.parametrize(
    ("rest", "accepted"),
    [
        (GUESS, True),
        (GUESS + REWARD, True),
        (REWARD, True),
        ("", False),
    ],
)
def test_a_reward_or_an_environment_is_needed(folder: Path, rest: str, accepted: bool) -> None:
    text = HEAD + DATA + rest
    validator = Draft202012Validator(schema.build().document)
    assert validator.is_valid(tomli.loads(text)) == accepted
    if accepted:
        load(write(folder, text))
    else:
        what = "reward: is missing; add at least one [[reward]] table with a type, or an [[environ"
        assert what in problem(folder, text)


def test_overrides_may_take_the_rewards_or_the_environments_away(folder: Path) -> None:
    path, validator = write(folder, BASE + GUESS + REWARD), schema.build().document
    assert load(path, ["reward=[]"]).reward == ()
    assert load(path, ["environment=[]"]).environment == ()
    document = tomli.loads(BASE + GUESS + REWARD)
    for empty, accepted in ((["reward"], True), (["reward", "environment"], False)):
        changed = document | {name: [] for name in empty}
        assert Draft202012Validator(validator).is_valid(changed) == accepted
    assert "reward: is missing" in problem(
        folder, BASE + GUESS + REWARD, "reward=[]", "environment=[]"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BASE + "[[enviroment]]\ntype = 'x'\n", "enviroment: is not a section; did you mean 'env"),
        (BASE + "[[environment]]\n", "environment[0].type: is missing; name an environment: "),
        (BASE + "[[environment]]\ntype = 'x'\n", "environment[0].type: there is no environment"),
        (BASE + "[[environment]]\ntype = 'tools'\n" + REWARD, "environment[0].tools: is missing"),
        (
            BASE + GUESS.replace("Guess", "Gues"),
            "mine.py has no 'Gues'; name the class after a colon",
        ),
        (BASE + GUESS + "max_turns = 0\n", "environment[0].max_turns: is 0; must be at least 1"),
        (BASE + GUESS + "limits = 3\n", "environment[0].limits: is not a known key; did you mean"),
        (BASE + GUESS + "on_error = 'skip'\n", "on_error: is 'skip'; must be 'stop', 'zero' or"),
        (BASE + GUESS + "tools = ['./a.py:f']\n", "tools: is ['./a.py:f']; there is no file"),
        (BASE + GUESS + "tools = ['mcp:']\n", "'mcp:' names no command; write 'mcp: command"),
        (BASE + GUESS + "tools = ['mcp: \"a']\n", "is not a command: No closing quotation"),
        (BASE + GUESS + "tools = ['python', 'python']\n", "names 'python' twice; name each"),
        (
            BASE + GUESS.replace("[[environment]]", "[environment]"),
            "environment: is a single table; write [[environment]], with two brackets",
        ),
        (
            BASE + GUESS + GUESS,
            "environment[1].name: is 'Guess', like the name of an earlier environment",
        ),
        (
            BASE + GUESS + REWARD + "name = 'Guess'\n",
            "environment[0].name: is 'Guess', like the name of a [[reward]]",
        ),
        (BASE + GUESS + "weight = 0\n", "environment[0].weight: is 0, and no [[reward]] adds to"),
        (BASE + GUESS + "weight = 0\n" + METRIC, "environment[0].weight: is 0, and no [[reward]]"),
        (
            BASE + GUESS + "weight = 0\n" + REWARD + "gate = true\n",
            "environment[0].weight: is 0, and no [[reward]] adds to the total",
        ),
        (
            BASE + GUESS + OTHER + "weight = 0\n",
            "environment[1].weight: is 0, and no [[reward]] adds to the total",
        ),
        (
            HEAD + DATA + "environment = 'Gues'\n" + ROLLOUT + GUESS,
            "data[0].environment: is 'Gues', and no [[environment]] has this name; did you mean "
            "'Guess'? there are: Guess",
        ),
        (
            HEAD + DATA + "environment = 'Guess'\n" + ROLLOUT + REWARD,
            "data[0].environment: is 'Guess', and there is no [[environment]]; add one, or remove",
        ),
        (
            f"{BASE}{GUESS}[eval]\n[[eval.data]]\ntype = 'arithmetic'\nenvironment = 'x'\n",
            "eval.data[0].environment: is 'x', and no [[environment]] has this name",
        ),
        (
            f"{HEAD}{DATA}rewards = ['exact_match']\n{ROLLOUT}{GUESS}weight = 0\n{METRIC}{REWARD}"
            "name = 'right'\n",
            "data[0].rewards: has no reward that adds to the total",
        ),
        (
            f"{HEAD}{DATA}continue_final_message = true\n{ROLLOUT}{GUESS}",
            "data[0].continue_final_message: is true, and a run with an [[environment]] cannot",
        ),
        (
            f"{BASE}{GUESS}[train]\nrouter_replay = true\n",
            "train.router_replay: is true, and the experts of an episode are not known",
        ),
        (
            f"{BASE}context_length = 40\n{GUESS}max_tokens_per_episode = 40\n",
            "environment[0].max_tokens_per_episode: is 40; must be below rollout.context_length, "
            "which is 40: the first prompt needs room too",
        ),
        (
            f"{BASE}{GUESS}max_tokens_per_episode = 15\n",
            "environment[0].max_tokens_per_episode: is 15; must be at least rollout.max_new_tokens",
        ),
    ],
)
def test_what_a_wrong_environment_gets(folder: Path, text: str, expected: str) -> None:
    assert expected in problem(folder, text)


def test_a_wrong_address_of_a_judge_is_a_message(folder: Path) -> None:
    found = problems(folder, BASE + "[[reward]]\ntype = 'judge'\nmodel = 'm'\nbase_url = 5\n")
    assert any("reward[0].base_url: is 5; must be text" in line for line in found), found


def test_a_misspelt_section_hides_what_follows_from_it(folder: Path) -> None:
    found = problems(folder, HEAD + DATA + "environment = 'Guess'\n[[enviroment]]\ntype = 'x'\n")
    assert [line.partition(": ")[2].partition(":")[0] for line in found] == ["enviroment"]


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (GUESS + "max_turns = 3\ntools = ['python']\n", None),
        (GUESS + "max_turns = 1\n", None),
        (GUESS + "max_turns = 1\ntools = ['python']\n", "max_turns: is 1, so the model never sees"),
        (OTHER + GUESS, "environment[1].name: is 'Guess', which no [[data]] names"),
        (GUESS + "concurrency = 3\n", "concurrency: has no effect: none of its methods is async"),
        (GUESS.replace("Guess", "Slow") + "concurrency = 3\n", None),
        (
            GUESS + "timeout_s = 9\nepisode_timeout_s = 8\n",
            "environment[0].timeout_s: is 9, and an episode ends after episode_timeout_s = 8",
        ),
        (GUESS + "episode_timeout_s = 8\n", None),
        (GUESS + "weight = 0\n" + REWARD, None),
        (
            "in_rounds = true\n" + REWARD,
            "rollout.in_rounds: has no effect without an [[environment]]",
        ),
        ("in_rounds = true\n" + GUESS, None),
    ],
)
def test_what_is_warned_of(folder: Path, rest: str, expected: str | None) -> None:
    found = warnings(folder, BASE + rest)
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]


def test_a_template_need_not_show_the_row(folder: Path) -> None:
    """What the model sees of it is for the environment to say."""
    text = f"{HEAD}{DATA}template = 'Guess.'\n{ROLLOUT}"
    assert load(write(folder, text + GUESS)).data[0].config.template == "Guess."
    assert "has no {{ prompt }}" in problem(folder, text + REWARD)


def with_context(folder: Path, rest: str) -> Spec:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    return load(write(folder, BASE + rest), ["model.path=model"])


def test_an_episode_fits_the_model(folder: Path) -> None:
    spec = with_context(folder, GUESS + "max_tokens_per_episode = 63\n")
    assert make_plan(spec, 1).context == 64 and room_for_responses(spec) == 63
    spec = load(spec.path, ["model.path=model", "environment[0].max_tokens_per_episode=64"])
    with pytest.raises(Exception, match=r"is 64; must be below the 64 tokens that the model"):
        make_plan(spec, 1)


@pytest.mark.parametrize(
    ("rest", "sampled", "room"),
    [
        (REWARD, 16, 16),
        (GUESS, 8 * 16, 16),
        (GUESS + "max_turns = 2\n", 32, 16),
        (GUESS + "max_tokens_per_episode = 50\n", 50, 50),
        (
            GUESS + "max_turns = 1\n" + OTHER + "max_turns = 3\nmax_tokens_per_episode = 60\n",
            48,
            60,
        ),
        (GUESS + "[eval]\nmax_new_tokens = 20\n", 128, 20),
    ],
)
def test_how_long_episodes_may_become(folder: Path, rest: str, sampled: int, room: int) -> None:
    spec = load(write(folder, BASE + rest))
    assert (longest_sampled(spec), room_for_responses(spec)) == (sampled, room)


def test_check_describes_environments(folder: Path) -> None:
    rest = (
        f"{GUESS}weight = 0.5\nmax_tokens_per_episode = 40\nepisode_timeout_s = 60\n"
        "tools = ['calculator']\nworkers = 1\n"
        f"{GUESS.replace('Guess', 'Slow')}max_turns = 1\nworkers = 2\non_error = 'zero'\n"
    )
    rows = dict(describe(make_plan(load(write(folder, BASE + rest)), 1)))
    assert "rewards" not in rows
    assert rows["longest sequence"] == (
        "16 new tokens per turn, 40 per episode after the prompt, the model's context in all"
    )
    assert rows["environments"].splitlines() == [
        "0.5 × Guess: at most 8 turns and 40 tokens in 60 s, tools calculator, up to 1 process per "
        "rank, 30 s per call, on error stop",
        "Slow: at most 1 turn, up to 2 processes of 64 episodes per rank, 30 s per call, on error "
        "zero",
    ]
    assert rows["updates per step"].endswith("at most 320 response tokens")


def test_memory_is_estimated_for_whole_episodes(folder: Path) -> None:
    spec = with_context(folder, GUESS + "max_turns = 2\n")
    assert estimate._lengths(make_plan(spec, 1)).response == 32
    longer = load(spec.path, ["model.path=model", "environment[0].max_turns=9"])
    assert estimate._lengths(make_plan(longer, 1)).response == 63
