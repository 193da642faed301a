"""`drpo environment try`: play an episode by hand, or have the model play it and look on."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from drpo_cli.environments.sessions.contract import prepare_all
from drpo_cli.environments.sessions.messages import Answer
from drpo_cli.environments.sessions.pool import Environments, Session
from drpo_cli.errors import EXIT_RUN_FAILED
from drpo_cli.runs.folder import write_whole
from drpo_cli.spec import load
from drpo_cli.step.samples import episode_record, to_json
from drpo_cli.tools.preview.environment_rows import Start, choose_start
from drpo_cli.tools.preview.episode_lines import EpisodeLine
from drpo_cli.tools.tables import make_console
from drpo_cli.types import Action, End, Episode, Group, Message, Prompt, Rollout, ToolCall, Turn

EXIT_INTERRUPTED = 130
SEVERAL, SEVERAL_END = "<<<", ">>>"
"""What begins and ends an action of several lines."""
HELP = (
    f"Type an action, or several lines between {SEVERAL} and {SEVERAL_END}. "
    "/call NAME {…} calls a tool, /tools shows them. Ctrl-D ends the episode."
)

Read = Callable[[str], str]
"""Reads a line that was typed after a prompt; raises EOFError at the end."""


@dataclass
class Played:
    """An episode as it goes on."""

    start: Start
    seed: int
    messages: list[Message] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    end: End | None = None
    failure: tuple[str, str] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, answer: Answer) -> None:
        """Adds what the environment answered."""
        self.messages += answer.messages
        self.info = dict(answer.info)
        for name, count in answer.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        if answer.failure is not None:
            self.failure, self.end = (answer.failure.kind, answer.failure.detail), "failed"
        elif answer.done:
            self.end = "done"
        elif len(self.turns) >= self.start.config.max_turns:
            self.end = "max_turns"

    @property
    def episode(self) -> Episode:
        """What happened so far; that of one that was left ends by `timeout`."""
        return Episode(
            self.start.name,
            (*self.start.opening, *self.messages),
            tuple(self.turns),
            self.end or "timeout",
            self.failure,
            self.info,
            self.counts,
        )


class Wanted(NamedTuple):
    """What to play.

    environment  its name; None for the first of the spec
    row          the number of a row, or its id
    json_out     a file for the record of the episode
    """

    spec_path: Path
    overrides: Sequence[str]
    environment: str | None
    row: str
    seed: int
    json_out: Path | None


def try_by_hand(wanted: Wanted) -> int:
    """Plays an episode with what is typed; returns the exit code: 1 where the environment failed.

    Raises UserError for a wrong spec, environment or row, and for an environment that cannot be
    set up.
    """
    spec = load(wanted.spec_path, wanted.overrides)
    for warning in spec.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    prepared = prepare_all(spec.environment)
    start = choose_start(spec, wanted.environment, wanted.row)
    console = make_console()
    played = Played(start, wanted.seed)
    environments = Environments(prepared)
    code = 0
    try:
        tools = environments.tools(start.number)
        print_start(console, start, wanted.seed, tools)
        session = environments.open(start.number, start.row, start.seed(wanted.seed))
        try:
            _play(session, played, console, read_line, tools)
        finally:
            session.close()
    except KeyboardInterrupt:
        console.print()
        code = EXIT_INTERRUPTED
    finally:
        environments.close()
    print_end(console, played.episode, left=played.end is None)
    if wanted.json_out is not None:
        write_record(wanted.json_out, played)
        console.print(f"wrote {wanted.json_out}", soft_wrap=True)
    return code or (EXIT_RUN_FAILED if played.failure else 0)


def try_model(wanted: Wanted, weights: str | None) -> int:
    """Has the model play an episode, and prints every token; returns the exit code.

    `weights` are a run, a checkpoint or a model folder; None for the spec's model. Raises UserError
    as `try_by_hand` does, and for a model or an engine that is not there.
    """
    from drpo_cli.launch.launcher import prepare_model  # imports torch, which is slow
    from drpo_cli.runs.versions import require_engine
    from drpo_cli.tools.evaluate import prepare_weights
    from drpo_cli.tools.preview import environment_model

    spec = load(wanted.spec_path, wanted.overrides)
    for warning in spec.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    prepare_all(spec.environment)
    start = choose_start(spec, wanted.environment, wanted.row)
    require_engine(spec.rollout.type)
    console = make_console()
    with tempfile.TemporaryDirectory(prefix="drpo-try-") as scratch:
        model = None
        if weights is None:
            prepare_model(spec.model)
        else:
            model = prepare_weights(Path(weights), Path(scratch) / "model", spec.model.dtype)
        with console.status(f"playing with {spec.rollout.type} …"):
            record = environment_model.play_in_process(
                spec, wanted.overrides, start.name, start.row.id, wanted.seed, model
            )
    facts = f"{start.name} · row {start.row.id} · seed {wanted.seed} · {weights or spec.model.path}"
    console.print(Text(facts, "bold"))
    environment_model.print_rows(console, record["rows"])
    episode = EpisodeLine.model_validate(record).episode
    for number, turn in enumerate(episode.turns, 1):
        print_turn(console, number, turn)
    print_end(console, episode)
    if wanted.json_out is not None:
        write_whole(wanted.json_out, json.dumps(record, ensure_ascii=False) + "\n")
        console.print(f"wrote {wanted.json_out}", soft_wrap=True)
    return EXIT_RUN_FAILED if episode.failure else 0


def _play(
    session: Session, played: Played, console: Console, read: Read, tools: Sequence[dict[str, Any]]
) -> None:
    """Takes turns until the episode ends, or nothing more is typed."""
    answer = session.first.result()
    played.add(answer)
    print_messages(console, answer.messages)
    while played.end is None:
        try:
            action = ask_action(read, console, len(played.turns) + 1, tools)
        except EOFError:
            console.print()
            return
        answer = session.step(action).result()
        played.messages.append(as_message(action))
        played.turns.append(
            Turn(0, 0, 0, answer.reward, action.calls, action.problem, 0.0, answer.seconds)
        )
        played.add(answer)
        print_answer(console, answer)


def ask_action(
    read: Read, console: Console, number: int, tools: Sequence[dict[str, Any]]
) -> Action:
    """Asks for an action until one is typed that can be taken. Raises EOFError at the end."""
    while True:
        text = read(f"turn {number} > ")
        if text.strip() == SEVERAL:
            return Action("\n".join(_read_lines(read)))
        word, _, rest = text.strip().partition(" ")
        if word == "/tools":
            console.print(json.dumps(list(tools), indent=1, ensure_ascii=False), soft_wrap=True)
        elif word == "/call":
            try:
                return Action("", (parse_call(rest, tools),))
            except ValueError as error:
                console.print(str(error), style="red")
        else:
            return Action(text)


def parse_call(text: str, tools: Sequence[dict[str, Any]]) -> ToolCall:
    """`calculator {"expression": "6*7"}` as a call. Raises ValueError for what is none."""
    name, _, arguments = text.strip().partition(" ")
    names = [tool["function"]["name"] for tool in tools]
    if name not in names:
        raise ValueError(f"no tool {name!r}; there is {', '.join(names) or 'none'}")
    try:
        found = json.loads(arguments or "{}")
    except ValueError as error:
        raise ValueError(f"the arguments are not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError('the arguments are not an object: write {"name": value}')
    return ToolCall(name, found)


def _read_lines(read: Read) -> Iterator[str]:
    while (line := read("... ")).strip() != SEVERAL_END:
        yield line


def read_line(prompt: str) -> str:
    """A line from standard input; where it is not a terminal, the line is shown as if typed."""
    line = input(prompt)
    if not sys.stdin.isatty():
        sys.stdout.write(line + "\n")
    return line


def as_message(action: Action) -> Message:
    """What was done, as a message of the conversation."""
    message: dict[str, Any] = {"role": "assistant", "content": action.text}
    if action.calls:
        message["tool_calls"] = [
            {
                "type": "function",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in action.calls
        ]
    return message


def write_record(path: Path, played: Played) -> None:
    """Writes the episode as a line of samples.jsonl has it, without tokens.

    `end` is null where the player left.
    """
    group = Group(Prompt(played.start.row.id, "", (), None, {}), ())
    rollout = Rollout((), (), "", truncated=False, episode=played.episode)
    record = {
        "prompt_id": played.start.row.id,
        "seed": played.seed,
        "reward": played.episode.reward,
        **episode_record(group, rollout),
        "end": played.end,
    }
    write_whole(path, json.dumps(record, ensure_ascii=False) + "\n")


def print_start(console: Console, start: Start, seed: int, tools: Sequence[dict[str, Any]]) -> None:
    """Says what is played, and how."""
    facts = (
        f"{start.name} · row {start.row.id} · seed {seed} · at most {start.config.max_turns} turns"
    )
    console.print(Text(facts, "bold"))
    names = ", ".join(tool["function"]["name"] for tool in tools)
    console.print(f"tools: {names}" if names else "no tools", style="dim")
    console.print(HELP, style="dim")
    print_messages(console, start.opening)


def print_messages(console: Console, messages: Sequence[Message]) -> None:
    """Prints what the policy sees and did not write, in grey."""
    for message in messages:
        role = " ".join(str(message[key]) for key in ("role", "name") if message.get(key))
        console.print(Text(f"{role}:", "bold"))
        console.print(Text(str(message.get("content") or ""), "bright_black"), soft_wrap=True)


def print_answer(console: Console, answer: Answer) -> None:
    """Prints an answer: observations, reward, info, and how long it took."""
    print_messages(console, answer.messages)
    facts = [f"reward {answer.reward:g}", f"{answer.seconds:.2f} s"]
    facts += ["done"] if answer.done else []
    if answer.info:
        facts.append(f"info {json.dumps(to_json(answer.info), ensure_ascii=False)}")
    console.print(Text(" · ".join(facts), "cyan"), soft_wrap=True)


def print_turn(console: Console, number: int, turn: Turn) -> None:
    """Prints what came of a turn of the model."""
    facts = [f"turn {number}: {turn.end - turn.first} tokens in {turn.sampling_s:.2f} s"]
    facts += [f"calls {call.name}" for call in turn.calls]
    facts += [f"call not valid: {turn.problem}"] if turn.problem else []
    facts += [f"reward {turn.reward:g}", f"answered in {turn.answer_s:.2f} s"]
    console.print(Text(" · ".join(facts), "cyan"), soft_wrap=True)


def print_end(console: Console, episode: Episode, left: bool = False) -> None:
    """Says how an episode ended."""
    turns = len(episode.turns)
    end = "left" if left else episode.end
    said = f"{end} after {turns} turn{'' if turns == 1 else 's'}: reward {episode.reward:g}"
    console.print(Text(said, "bold"))
    if episode.failure is not None:
        kind, detail = episode.failure
        console.print(Text(f"the environment failed: {kind}: {detail}", "red"), soft_wrap=True)
