"""Plays episodes: the engine samples one episode's turn while the environments of others answer.

    Player     the environments and the chats of a run; made once
    _Episodes  one batch of episodes, which an engine takes its requests from
    _Episode   one of them: its session in a process, its dialogue, its turns

An action goes to its environment as soon as the engine has finished it, and the next turn joins
the requests that are being sampled as soon as the environment has answered.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple

from drpo_cli import progress
from drpo_cli.environments.dialogue import Chats, Dialogue
from drpo_cli.environments.sessions.contract import prepare_all
from drpo_cli.environments.sessions.pool import Answer, Environments, Session
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rollout.engine.protocol import (
    Sampler,
    Sampling,
    derive_seed,
    derive_seeds,
    sample_groups,
)
from drpo_cli.rollout.engine.requests import PATIENCE_S, Key, Request
from drpo_cli.settings import EnvironmentSettings
from drpo_cli.types import End, Episode, Group, Message, Prompt, Rollout, Row, Turn

Finished = Callable[[int, int, Rollout], None]


class Player:
    """Plays the episodes of a run. Closed, it leaves no process behind.

    waited_s  seconds of the newest batch in which all its episodes waited for their environments

    Raises UserError for an environment that cannot be called.
    """

    def __init__(
        self,
        selected: Sequence[Selected[EnvironmentSettings]],
        tokenizer: Any,
        ends: frozenset[int],
        context_length: int,
        in_rounds: bool = False,
    ) -> None:
        self.context_length, self.in_rounds = context_length, in_rounds
        self.waited_s = 0.0
        self._prepared = prepare_all(selected)
        self._index = {one.name: index for index, one in enumerate(self._prepared)}
        self.chats = Chats(tokenizer, ends)
        self.environments = Environments(self._prepared)

    def __enter__(self) -> Player:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.environments.close()

    def find(self, prompt: Prompt) -> int:
        """The index of the environment that episodes of this prompt take place in."""
        return 0 if prompt.environment is None else self._index[prompt.environment]

    def config(self, index: int) -> EnvironmentSettings:
        """The options of an environment."""
        return self._prepared[index].config

    def name(self, index: int) -> str:
        """The name of an environment."""
        return self._prepared[index].name

    def room(self, index: int) -> int:
        """The episodes of an environment that its processes can hold at the same time."""
        one = self._prepared[index]
        return one.config.workers * (one.config.concurrency if one.is_async else 1)

    def play(
        self,
        engine: Sampler,
        prompts_P: Sequence[Prompt],
        sampling: Sampling,
        finished: Finished = lambda at, sample, rollout: None,
    ) -> list[Group]:
        """Plays a group of episodes from each prompt; calls `finished` on each as soon as it ends.

        Consumes: this rank's prompts, of which there may be none.
        Waits for: this rank's engine, the ranks that share it, and the environments.
        Produces: the groups in the order of the prompts. The tokens of an episode are a function
            of its prompt, its seed, the weights, and what its environment answers; all samples of
            a prompt start from the same state.
        """
        rollouts_PG: list[dict[int, Rollout]] = [{} for _ in prompts_P]

        def keep(at: int, sample: int, rollout: Rollout) -> None:
            rollouts_PG[at][sample] = rollout
            progress.tick()
            finished(at, sample, rollout)

        episodes = _Episodes(self, prompts_P, sampling, keep)
        try:
            with closing(engine.generate(episodes, sampling)) as sampled:
                for key, rollout in sampled:
                    progress.tick()
                    episodes.take_turn(key, rollout)
        finally:
            episodes.close()
            self.waited_s = episodes.waited_s
        return [
            Group(prompt, tuple(by_sample[i] for i in range(sampling.samples)))
            for prompt, by_sample in zip(prompts_P, rollouts_PG, strict=True)
        ]


def sample_or_play(
    engine: Sampler,
    player: Player | None,
    prompts_P: Sequence[Prompt],
    sampling: Sampling,
    finished: Finished = lambda at, sample, rollout: None,
) -> list[Group]:
    """A group of responses, or with a player of episodes, from each prompt."""
    if player is None:
        return sample_groups(engine, prompts_P, sampling, finished)
    return player.play(engine, prompts_P, sampling, finished)


class _Answered(NamedTuple):
    """An answer of an environment that has come in, and when its call began."""

    episode: _Episode
    future: Future[Answer]
    began: float


@dataclass
class _Episode:
    """An episode that is being played.

    seed      of its first turn; those of the others are derived from it
    session   None until there is room for it
    turns     the actions so far, the newest without the environment's answer to it
    sampling  whether the engine has a request of it, else it waits for its environment
    asked     when the engine got its newest request
    deadline  when it is ended, None for never
    """

    at: int
    sample: int
    prompt: Prompt
    index: int
    config: EnvironmentSettings
    start_seed: int
    seed: int
    session: Session | None = None
    dialogue: Dialogue | None = None
    turns: list[Turn] = field(default_factory=list)
    sampling: bool = False
    asked: float = 0.0
    deadline: float | None = None
    text: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    ended: bool = False


class _Episodes:
    """The episodes of a batch, as an engine takes requests from them (`Requests`)."""

    def __init__(
        self, player: Player, prompts_P: Sequence[Prompt], sampling: Sampling, finished: Finished
    ) -> None:
        self.waited_s, self.in_rounds = 0.0, player.in_rounds
        self._player, self._sampling, self._finished = player, sampling, finished
        self._answers: SimpleQueue[_Answered] = SimpleQueue()
        self._first_ids_P: dict[int, tuple[int, ...]] = {}
        keys_P = [(prompt.id, prompt.epoch) for prompt in prompts_P]
        seeds_PG = derive_seeds(sampling, keys_P)
        self._living: dict[Key, _Episode] = {}
        self._queues: dict[int, deque[_Episode]] = {}
        for at, (prompt, seeds_G) in enumerate(zip(prompts_P, seeds_PG, strict=True)):
            start_seed = derive_seed(sampling.seed, "start", *keys_P[at])
            index = player.find(prompt)
            queue = self._queues.setdefault(index, deque())
            for sample, seed in enumerate(seeds_G):
                one = _Episode(at, sample, prompt, index, player.config(index), start_seed, seed)
                self._living[at, sample] = one
                queue.append(one)
        for index in self._queues:
            for _ in range(player.room(index)):
                self._open_next(index)

    @property
    def coming(self) -> bool:
        """See `Requests.coming`."""
        return any(one.session is not None and not one.sampling for one in self._living.values())

    def take(self, wait: bool) -> Sequence[Request] | None:
        """See `Requests.take`: the next turn of every episode whose environment has answered."""
        if not self._living:
            return None
        requests = [request for one in self._take_answers(wait) if (request := self._go_on(one))]
        self._end_late()
        return requests if requests or self._living else None

    def take_turn(self, key: Key, rollout: Rollout) -> None:
        """Takes a turn that the engine has finished, and hands it to its environment."""
        one = self._living[key]
        one.sampling = False
        assert one.dialogue is not None and one.session is not None
        action = one.dialogue.act(rollout)
        one.text = action.text
        row, first, end = one.dialogue.spans[-1]
        now = time.perf_counter()
        one.turns.append(
            Turn(
                row,
                first,
                end,
                calls=action.calls,
                problem=action.problem,
                sampling_s=now - one.asked,
            )
        )
        if one.deadline is not None and now > one.deadline:
            self._end(one, "timeout")
        else:
            self._await(one, one.session.step(action))

    def close(self) -> None:
        """Ends what is left, after an error."""
        for one in self._living.values():
            if one.session is not None:
                one.session.close()
        self._living.clear()

    def _open_next(self, index: int) -> None:
        """Begins the next episode of an environment, if there is one."""
        if not (queue := self._queues[index]):
            return
        one = queue.popleft()
        one.session = self._player.environments.open(index, _row(one.prompt), one.start_seed)
        self._await(one, one.session.first)

    def _await(self, one: _Episode, future: Future[Answer]) -> None:
        began = time.perf_counter()
        future.add_done_callback(lambda done: self._answers.put(_Answered(one, done, began)))

    def _take_answers(self, wait: bool) -> Iterator[_Answered]:
        """The answers that have come in; waits for the first one if told to."""
        if wait:
            began = time.perf_counter()
            try:
                yield self._answers.get(timeout=self._pause())
            except Empty:
                return
            finally:
                self.waited_s += time.perf_counter() - began
        while True:
            try:
                yield self._answers.get_nowait()
            except Empty:
                return

    def _pause(self) -> float:
        deadlines = [one.deadline for one in self._living.values() if one.deadline is not None]
        left = min(deadlines, default=float("inf")) - time.perf_counter()
        return max(0.0, min(PATIENCE_S, left))

    def _go_on(self, answered: _Answered) -> Request | None:
        """The episode's next request; None if it ends here."""
        one, future, began = answered
        if one.ended:
            return None
        progress.tick()
        answer = future.result()  # raises UserError where the environment could not be set up
        self._note(one, answer, time.perf_counter() - began)
        if answer.failure is not None:
            self._end(one, "failed", (answer.failure.kind, answer.failure.detail))
        elif answer.done or len(one.turns) >= one.config.max_turns:
            self._say(one, answer.messages)
            self._end(one, "done" if answer.done else "max_turns")
        else:
            self._observe(one, answer.messages)
            return self._request(one)
        return None

    def _note(self, one: _Episode, answer: Answer, seconds: float) -> None:
        one.info = answer.info or one.info
        for name, count in answer.counts.items():
            one.counts[name] = one.counts.get(name, 0) + count
        if isinstance(submitted := answer.info.get("submitted"), str):
            one.text = submitted
        if one.turns:
            one.turns[-1] = replace(
                one.turns[-1], reward=answer.reward, answer_s=seconds, errors=answer.errors
            )

    def _say(self, one: _Episode, messages: Sequence[Message]) -> None:
        """Keeps messages that nobody answers: they have no tokens."""
        if one.dialogue is not None:
            one.dialogue.messages.extend(messages)

    def _observe(self, one: _Episode, messages: Sequence[Message]) -> None:
        if one.dialogue is not None:
            one.dialogue.observe(messages)
            return
        tools = self._player.environments.tools(one.index)
        one.dialogue = self._player.chats.begin(one.prompt, messages, tools, one.config.history)
        if one.config.episode_timeout_s is not None:
            one.deadline = time.perf_counter() + one.config.episode_timeout_s
        first = self._first_ids_P.setdefault(one.at, one.dialogue.prompt_ids)
        if first != one.dialogue.prompt_ids:
            raise UserError(
                f"environment {self._player.name(one.index)!r}, prompt {one.prompt.id}: its "
                "episodes of one group start differently, so they cannot be compared",
                "draw what is random in `start` from its `rng` alone",
            )

    def _request(self, one: _Episode) -> Request | None:
        """Asks for the next turn, where there is room for it."""
        assert one.dialogue is not None
        ids = one.dialogue.prompt_ids
        room = self._player.context_length - len(ids)
        if room < 1 and not one.turns:
            limit = self._player.context_length
            detail = (
                f"its first observation has {len(ids)} tokens, and the context {limit}: raise "
                "rollout.context_length, or make it shorter"
            )
            self._end(one, "failed", ("too_long", detail))
            return None
        end: End = "context"
        if (most := one.config.max_tokens_per_episode) is not None:
            left = most - one.dialogue.tokens
            room, end = (left, "max_tokens") if left < room else (room, end)
        if room < 1:
            self._end(one, end)
            return None
        one.asked, one.sampling = time.perf_counter(), True
        seed = derive_seed(one.seed, len(one.turns)) if one.turns else one.seed
        return Request((one.at, one.sample), ids, seed, min(room, self._sampling.max_new_tokens))

    def _end_late(self) -> None:
        now = time.perf_counter()
        for one in list(self._living.values()):
            if not one.sampling and one.deadline is not None and now > one.deadline:
                self._end(one, "timeout")

    def _end(self, one: _Episode, end: End, failure: tuple[str, str] | None = None) -> None:
        del self._living[one.at, one.sample]
        one.ended = True
        if one.session is not None:
            one.session.close()
        self._open_next(one.index)
        self._finished(one.at, one.sample, self._make_rollout(one, end, failure))

    def _make_rollout(self, one: _Episode, end: End, failure: tuple[str, str] | None) -> Rollout:
        rows = () if one.dialogue is None else one.dialogue.rows()
        messages = one.prompt.messages if one.dialogue is None else one.dialogue.messages
        episode = Episode(
            environment=self._player.name(one.index),
            messages=tuple(messages),
            turns=tuple(one.turns),
            end=end,
            failure=failure,
            info=one.info,
            counts=one.counts,
        )
        last = rows[-1] if rows else Rollout((), (), "", truncated=False)
        return replace(
            last,
            text=one.text,
            truncated=end not in ("done", "failed"),
            earlier=rows[:-1],
            episode=episode,
        )


def _row(prompt: Prompt) -> Row:
    own = prompt.messages[prompt.opening :]
    text = own[-1]["content"] if own else prompt.text
    return Row(prompt.id, text, own, prompt.answer, prompt.metadata)
