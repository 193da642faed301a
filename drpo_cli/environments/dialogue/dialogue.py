"""The tokens of one episode: sampled and observed ones, in rows that each go on as they began."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from drpo_cli.environments.dialogue.entries import Entry, Marks, texts_of
from drpo_cli.environments.dialogue.formats import explain
from drpo_cli.environments.dialogue.formats.written import Written
from drpo_cli.environments.dialogue.renderer import Renderer
from drpo_cli.environments.dialogue.tokens import Control, Tokens
from drpo_cli.errors import UserError
from drpo_cli.types import Action, Message, Rollout

LINE = "\n"
"""Text between several messages of an observation in plain text."""


@dataclass
class _Row:
    """A training row as it grows: `text` is its prompt, `end` where its last action ends."""

    prompt_ids: tuple[int, ...]
    text: str = ""
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    turns: list[_Turn] = field(default_factory=list)
    last: Rollout | None = None
    end: int = 0

    def append(self, ids: Sequence[int]) -> None:
        """Adds tokens that the policy did not sample."""
        self.ids += ids
        self.logps += [0.0] * len(ids)
        self.sampled += [False] * len(ids)


@dataclass
class _Turn:
    """An action: its entry in the conversation, the id that ended it, the text rendered after it.

    `tail` begins with the token that ends the turn.
    """

    entry: int
    written: Written
    opened: bool
    end: int | None
    tail: str = ""


class _Place(NamedTuple):
    """Where a rendering has the end of a turn: after its last mark, and its control token."""

    last: int
    control: Control


class Start(NamedTuple):
    """How an episode begins, and how it goes on.

    special  whether the tokenizer adds special tokens to a prompt
    keeps    whether earlier turns stay as they are, whatever the template makes of them
    escape   keeps observed plain text from becoming control tokens
    """

    text: str
    prompt_ids: tuple[int, ...]
    special: bool
    keeps: bool
    escape: Callable[[str], str]


class Dialogue:
    """An episode's conversation and its tokens. Call `act` and `observe` in turns.

    messages  the conversation so far
    tokens    those after the first prompt, sampled and observed; where a new row began, of its
              observation those of the text alone
    spans     (row, first, end) of each action: where its tokens are in the row
    """

    def __init__(
        self,
        tokens: Tokens,
        renderer: Renderer | None,
        messages: Sequence[Message],
        start: Start,
    ) -> None:
        self._tokens, self._renderer, self._start = tokens, renderer, start
        self._entries = [Entry(message) for message in messages]
        self._rows = [_Row(start.prompt_ids, start.text)]
        self.messages = list(messages)
        self.tokens = 0
        self.spans: list[tuple[int, int, int]] = []

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What the policy continues: every token as it was seen."""
        return (*self._row.prompt_ids, *self._row.ids)

    def act(self, rollout: Rollout) -> Action:
        """Appends what the engine sampled, and returns what it says."""
        row, ids = self._row, rollout.token_ids
        first = len(row.ids)
        self.tokens += len(ids)
        row.ids += ids
        row.logps += rollout.logps
        row.sampled += [True] * len(ids)
        row.last, row.end = rollout, len(row.ids)
        self.spans.append((len(self._rows) - 1, first, row.end))
        end = ids[-1] if ids and not rollout.truncated and ids[-1] in self._tokens.ends else None
        seen = row.turns[-1].tail if row.turns else row.text
        opened = self._renderer is not None and self._renderer.reader.opens(seen)
        written = self._read(rollout, ids if end is None else ids[:-1], opened)
        row.turns.append(_Turn(len(self._entries), written, opened, end))
        self._entries.append(Entry(_message(written), written))
        self.messages.append(_message(written))
        return Action(written.content, written.calls, written.problem, rollout.truncated)

    def observe(self, messages: Sequence[Message]) -> None:
        """Appends what the policy sees after its action, and what begins its next one.

        An answer of a tool to no call, such as what is wrong with a call, becomes a message of the
        user. Where the template makes something else of the earlier turns than the policy saw, a
        new row begins. Raises UserError for messages that the template refuses.
        """
        acted = self._entries[-1].written
        assert acted is not None, "observe follows act"
        for message in messages:
            if message["role"] == "tool" and not acted.calls:  # an answer to no call
                message = {"role": "user", "content": message["content"]}
            self.messages.append(message)
            explains = acted.problem is not None and message["content"] == acted.problem
            self._entries.append(Entry(message, observed=True, explains=explains))
        before = len(self._row.ids)
        if self._renderer is None:
            self._append_text(messages)
        elif not self._append_rendered(self._renderer):
            text = self._renderer.render(self._entries)
            ids = self._tokens.encode(text, self._start.special)
            self._rows.append(_Row(tuple(ids), text))
            said = self._renderer.spelling.escape(LINE.join(one["content"] for one in messages))
            self.tokens += len(self._tokens.encode(said))
            return
        self.tokens += len(self._row.ids) - before

    def rows(self) -> tuple[Rollout, ...]:
        """The training rows, in order; each ends with its last sampled token."""
        acted = [row for row in self._rows if row.turns]
        return tuple(map(_make_rollout, acted or self._rows))

    @property
    def _row(self) -> _Row:
        return self._rows[-1]

    def _read(self, rollout: Rollout, ids: Sequence[int], opened: bool) -> Written:
        if self._renderer is None:
            return Written(rollout.text)
        text = self._tokens.decode(ids)
        written = self._renderer.reader.read(text, opened)
        if written == Written(text):
            return Written(rollout.text)
        clean, refusal = self._tokens.without_special, self._renderer.refusal
        if written.problem is None:
            thinking = None if written.thinking is None else clean(written.thinking)
            said = written._replace(content=clean(written.content), thinking=thinking)
            if not said.calls or (why := refusal([*self._entries, Entry({}, said)])) is None:
                return said
            problem = explain(why, self._renderer.reader.form)  # such as an id it does not take
            written = Written(text, thinking, problem=problem)
        if refusal([*self._entries, Entry({}, written)]) is None:
            return written
        return written._replace(content=clean(written.content))

    def _append_text(self, messages: Sequence[Message]) -> None:
        """Plain text follows plain text."""
        if wrong := [message["role"] for message in messages if message["role"] != "user"]:
            raise UserError(
                f"environment: a message of role {wrong[0]!r} needs a chat, and the prompt is "
                "plain text",
                "set chat = true in the data source, or return text",
            )
        text = LINE.join(message["content"] for message in messages)
        self._row.append(self._tokens.encode_after(self._start.escape(text)))

    def _append_rendered(self, renderer: Renderer) -> bool:
        """Appends what a rendering has after the last action; False if the row cannot continue."""
        row, marks = self._row, Marks(self._entries)
        hidden = {turn.entry: marks.hide(turn.entry, turn.written) for turn in row.turns}
        text = renderer.render(self._entries, hidden)
        if self._start.keeps:
            self._append_kept(text, hidden[row.turns[-1].entry])
            return True
        place = self._follow(renderer, text, hidden)
        if place is None:
            return False
        turn, tail = row.turns[-1], text[place.control.at :]
        if turn.end is None:  # it ran out of tokens, or wrote a text that ends a response
            if not turn.written.calls and place.last < place.control.at:
                return False
        elif turn.end != place.control.id:
            return False
        ids = self._tokens.encode(tail)
        if ids[0] != place.control.id:
            return False
        turn.tail = tail
        row.append(ids if turn.end is None else ids[1:])
        return True

    def _follow(
        self, renderer: Renderer, text: str, hidden: Mapping[int, Written]
    ) -> _Place | None:
        """Where a rendering has the end of the last action, if it has all that the policy saw.

        What is between the marks must be the same characters as before; each action must say the
        same: thinking, text and calls, but for white space around them and the spelling of calls.
        """
        if not text.startswith(self._row.text):
            return None
        at, place = len(self._row.text), None
        for turn in self._row.turns:
            said = hidden[turn.entry]
            ends = _find_marks(text, said, at)
            if None in ends:
                return None
            last = max(end for end in ends if end is not None)
            control = self._find_end(renderer, text, at, last, turn, said)
            if control is None or not text.startswith(turn.tail, control.at):
                return None
            at, place = control.at + len(turn.tail), _Place(last, control)
        return place

    def _find_end(
        self, renderer: Renderer, text: str, at: int, last: int, turn: _Turn, said: Written
    ) -> Control | None:
        """The token that ends a turn which begins at `at`, if the turn says the same as before."""
        for control in self._tokens.find_controls(text, last):
            written = renderer.reader.read(text[at : control.at], turn.opened)
            if written._replace(content=written.content.strip()) == said:
                return control
        return None

    def _append_kept(self, text: str, said: Written) -> None:
        """Appends what follows the last action, whatever stands before it."""
        turn = self._row.turns[-1]
        ends = [end for end in _find_marks(text, said, 0) if end is not None]
        if not ends:
            raise UserError(
                "environment: the model's chat template leaves out what the policy answered, so "
                'history = "keep" cannot tell what follows it',
                'set history = "template" in this environment',
            )
        last = max(ends)
        controls = self._tokens.find_controls(text, last)
        if not turn.written.calls:  # behind a call, the first may be one that closes it
            controls = controls[:1]
        end = next((one for one in controls if one.id in self._tokens.ends), None)
        if end is not None and turn.end is not None:
            turn.tail = text[end.at :]  # the end that the policy wrote, or another one
            ids = self._tokens.encode(turn.tail)[1:]
        else:
            closed = (end or controls[0]).at if turn.written.calls and controls else last
            turn.tail = text[closed:]
            ids = self._tokens.encode_after(turn.tail)
        self._row.append(ids)


def _find_marks(text: str, said: Written, start: int) -> list[int | None]:
    """Where each mark of a message ends in a rendering; None for one that is not there."""
    found = [(text.find(mark, start), mark) for mark in texts_of(said)]
    return [None if at < 0 else at + len(mark) for at, mark in found]


def _make_rollout(row: _Row) -> Rollout:
    end, last = row.end, row.last
    return Rollout(
        tuple(row.ids[:end]),
        tuple(row.logps[:end]),
        "" if last is None else last.text,
        last is not None and last.truncated,
        None if last is None else last.experts,
        prompt_ids=row.prompt_ids,
        sampled=tuple(row.sampled[:end]),
    )


def _message(written: Written) -> Message:
    """What the policy wrote, as a message of the conversation."""
    message: dict[str, Any] = {"role": "assistant", "content": written.content}
    if written.thinking is not None:
        message["reasoning_content"] = written.thinking
    if written.calls:
        message["tool_calls"] = [
            {
                "type": "function",
                **({"id": call.id} if call.id else {}),
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in written.calls
        ]
    return message
