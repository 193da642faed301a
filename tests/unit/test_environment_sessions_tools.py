"""Tools of an episode: they run in its process, and the model learns what goes wrong in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drpo_cli.calls import pool as calls
from drpo_cli.environments.sessions.pool import Answer, Environments, Session
from drpo_cli.environments.sessions.schemas import own_schemas
from drpo_cli.errors import UserError
from drpo_cli.types import Action, ToolCall
from support.environments import Own, opened, result, row, texts

TOOLS = '''
import asyncio, time
def add(one: int, two: int) -> int:
    """Adds two numbers."""
    return one + two
def fails(why: str) -> str:
    """Fails."""
    raise ValueError(why)
def hangs(how: str) -> str:
    """Hangs."""
    time.sleep(1000)
async def waits(seconds: float) -> str:
    """Waits."""
    await asyncio.sleep(seconds)
    return "waited"
class Notes:
    """Keeps notes."""
    def __init__(self): self.notes = []
    def __call__(self, note: str) -> str:
        """Keeps a note."""
        self.notes.append(note)
        return ", ".join(self.notes)
    def close(self): open(self.notes[0], "w").close()
'''
ENVIRONMENT = """
class Env:
    {prefix}def start(self, row, rng): return row.prompt
    {prefix}def step(self, action: str) -> Step: return Step(f"said {{action}}", len(action))
"""
LIMIT = 1.0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environments]:
    """An environment with tools, as sync one and as async one; each has one process."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "tools.py").write_text(TOOLS)
    tools = [f"{folder}/tools.py:{name}" for name in ("add", "fails", "hangs", "waits", "Notes")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "GRACE_SECONDS", 0.1)
        own = Own(folder)
        chosen = [
            own(ENVIRONMENT.format(prefix=prefix), tools=[*tools, "submit"], timeout_s=LIMIT)
            for prefix in ("", "async ")
        ]
        with opened(*chosen) as found:
            yield found


@pytest.fixture(params=[0, 1], ids=["sync", "async"])
def index(request: pytest.FixtureRequest) -> int:
    """The index of the environment."""
    found: int = request.param
    return found


@pytest.fixture
def session(pool: Environments, index: int) -> Iterator[Session]:
    """An episode that has begun."""
    one = pool.open(index, row(), 1)
    assert texts(result(one.first)) == ["p"]
    yield one
    one.close()


def use(session: Session, name: str, id: str = "", **arguments: object) -> Answer:
    """The answer to one call of a tool."""
    return result(session.step(Action("", (ToolCall(name, arguments, id),))))


def test_a_tool_answers_in_place_of_the_environment(session: Session) -> None:
    answer = use(session, "add", "call_7", one=1, two=2)
    message = {"role": "tool", "name": "add", "content": "3", "tool_call_id": "call_7"}
    assert answer.messages == (message,) and not answer.done and answer.reward == 0.0
    assert answer.counts == {"tool_calls": 1} and answer.errors == ("",)
    both = ToolCall("add", {"one": 1, "two": 2}), ToolCall("add", {"one": 3, "two": 4})
    assert texts(result(session.step(Action("text", both)))) == ["3", "7"]
    assert texts(result(session.step(Action("text")))) == ["said text"]


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("fails", {"why": "no"}, "ValueError: no"),
        ("add", {"one": "x", "two": 2}, "one"),
        ("subtract", {}, "There is no tool 'subtract'"),
    ],
)
def test_a_tool_that_fails_reaches_the_model(
    session: Session, name: str, arguments: dict[str, object], says: str
) -> None:
    answer = result(session.step(Action("", (ToolCall(name, arguments),))))
    assert says in texts(answer)[0] and answer.failure is None
    assert answer.counts["tool_calls"] == answer.counts["tool_errors"] == 1
    assert says in answer.errors[0] and ((".py:" in answer.errors[0]) == (name == "fails"))
    assert texts(use(session, "add", one=1, two=2)) == ["3"]


def test_a_call_that_was_not_valid_reaches_the_model(session: Session) -> None:
    answer = result(session.step(Action("{", problem="it is not JSON")))
    assert answer.messages == ({"role": "user", "content": "it is not JSON"},)
    assert answer.counts == {"parse_errors": 1} and answer.failure is None


def test_a_tool_that_waits_too_long_reaches_the_model(session: Session) -> None:
    calls = ToolCall("add", {"one": 1, "two": 2}), ToolCall("waits", {"seconds": 1000})
    answer = result(session.step(Action("", (*calls, calls[0]))))
    late = "error: not finished after 1 seconds"
    assert texts(answer) == ["3", late, late] and answer.errors == ("", late, late)
    assert answer.counts == {"tool_calls": 3, "tool_errors": 2, "tool_timeouts": 2}
    assert texts(use(session, "waits", seconds=0)) == ["waited"]


def test_a_tool_that_blocks_ends_its_episode(pool: Environments, index: int) -> None:
    one = pool.open(index, row(), 1)
    failure = use(one, "hangs", how="x").failure if texts(result(one.first)) else None
    assert failure is not None and failure.kind == "timeout"
    one.close()
    two = pool.open(index, row(), 1)
    assert texts(result(two.first)) == ["p"] and texts(use(two, "add", one=1, two=2)) == ["3"]
    two.close()


def test_an_answer_that_is_submitted_is_the_last_action(session: Session) -> None:
    calls = ToolCall("add", {"one": 1, "two": 2}), ToolCall("submit", {"answer": "four"})
    answer = result(session.step(Action("", (*calls, calls[0]))))
    assert answer.done and answer.reward == 4.0 and answer.info == {"submitted": "four"}
    assert texts(answer)[0] == "3" and texts(answer)[-1] == "said four" and len(texts(answer)) == 3


def test_a_tool_has_a_state_for_its_episode(pool: Environments, index: int, tmp_path: Path) -> None:
    first = str(tmp_path / "closed")
    for _ in range(2):
        one = pool.open(index, row(), 1)
        result(one.first)
        assert texts(use(one, "Notes", note=first)) == [first]
        assert texts(use(one, "Notes", note="b")) == [f"{first}, b"]
        assert result(one.close()).failure is None
        assert Path(first).exists()
        Path(first).unlink()


def test_the_schemas_of_the_tools(pool: Environments, index: int) -> None:
    names = [schema["function"]["name"] for schema in pool.tools(index)]
    assert names == ["add", "fails", "hangs", "waits", "Notes", "submit"]


def test_what_cannot_be_a_tool(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text("def bad(x): return x\n")
    environment = Own(tmp_path)(ENVIRONMENT.format(prefix=""), tools=[f"{tmp_path}/tools.py:bad"])
    with opened(environment) as found:
        with pytest.raises(UserError, match=r"environment 'Env': \S+tools.py:1: tool 'bad'"):
            found.tools(0)
        with pytest.raises(UserError, match="tool 'bad'"):
            result(found.open(0, row(), 1).first)


OWN = """
class Env:
    def start(self, row, rng): return row.prompt
    def step(self, action: Action) -> Step:
        return Step(f"called {{[call.name for call in action.calls]}}, {{action.problem}}")
    @staticmethod
    def tools(config):
        {body}
"""
SCHEMA = {"type": "function", "function": {"name": "look", "parameters": {}}}


def test_an_environment_that_brings_tools_gets_their_calls(tmp_path: Path) -> None:
    with opened(Own(tmp_path)(OWN.format(body=f"return [{SCHEMA}]"))) as found:
        assert found.tools(0) == (SCHEMA,)
        session = found.open(0, row(), 1)
        assert texts(result(session.first)) == ["p"]
        assert texts(use(session, "look")) == ["called ['look'], None"]
        assert texts(result(session.step(Action("{", problem="no")))) == ["called [], no"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ValueError('no')", r"failed: ValueError: no \(\S+e0.py:9 in tools\)"),
        ("return {}", "returned a dict; return a list of schemas"),
        ("return [{'name': 'look'}]", "returned a schema without the name of a function; write"),
        ("return [{'function': {1}}]", r"a schema\['function'\] is \{1\} \(set\); give text"),
    ],
)
def test_schemas_that_no_template_takes(tmp_path: Path, body: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        own_schemas(Own(tmp_path)(OWN.format(body=body)))
    assert "e0.py:7: environment 'Env': its `tools`" in str(refused.value)
