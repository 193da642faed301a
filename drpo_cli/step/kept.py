"""Keeps the responses of an evaluation in files: a killed one continues with what is missing.

OUT/SUITE/TARGET/conditions*.json   what the responses depend on, besides their prompts
OUT/SUITE/TARGET/responses*.jsonl   a line for each response, written as soon as it ends
OUT/SUITE/TARGET/samples.jsonl      the same with their scores, once all are scored
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

import msgspec

from drpo_cli.errors import UserError, writing
from drpo_cli.rollout.engine.protocol import EngineProtocol, Sampling
from drpo_cli.rollout.engine.requests import Key, Request, Requests
from drpo_cli.runs.folder import write_whole
from drpo_cli.runs.reader import Damage, iterate, read_text
from drpo_cli.runs.records import Records
from drpo_cli.types import Rollout

CONDITIONS, RESPONSES, SAMPLES = "conditions.json", "responses.jsonl", "samples.jsonl"
T = TypeVar("T")
WEIGHTS = ("*.safetensors", "*.bin", "config.json", "generation_config.json")


@dataclass(frozen=True)
class Shard:
    """The part of the problems that one of several processes samples: every `of`-th one.

    index  from 1
    """

    index: int
    of: int

    @staticmethod
    def parse(text: str) -> Shard:
        """Reads `1/4`. Raises UserError."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        index, of = map(int, found.groups()) if found else (0, 0)
        if not 1 <= index <= of:
            raise UserError(f"--shard {text}: is not I/N", "write 1/4 for the first of four")
        return Shard(index, of)

    def share(self, all_: Sequence[T]) -> list[T]:
        """The part of these that is this shard's."""
        return list(all_[self.index - 1 :: self.of])

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


class Keep(NamedTuple):
    """Where responses are kept, and which shard is sampled; None: all.

    The folder is that of one target of one suite.
    """

    folder: Path
    shard: Shard | None = None

    def file(self, name: str) -> Path:
        """A file that this process writes, and no other shard."""
        stem, suffix = name.split(".")
        part = "" if self.shard is None else f"-{self.shard.index}-of-{self.shard.of}"
        return self.folder / f"{stem}{part}.{suffix}"

    def files(self, name: str) -> list[Path]:
        """Such files of all processes."""
        return sorted(self.folder.glob(name.replace(".", "*.")))


class ResponseLine(TypedDict):
    """One line of a file of responses; `limit` is the most tokens that it could have."""

    key: str
    limit: int
    token_ids: list[int]
    text: str
    truncated: bool


def open_folder(keep: Keep, conditions: Mapping[str, Any]) -> None:
    """Makes the folder, or finds that its responses were sampled under the same conditions.

    Raises UserError if they were not.
    """
    with writing(keep.folder):
        keep.folder.mkdir(parents=True, exist_ok=True)
    wanted = json.loads(json.dumps(conditions))
    for path in keep.files(CONDITIONS):
        try:
            found = msgspec.json.decode(read_text(path), type=dict[str, Any])
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read: {error}", "remove its folder") from error
        for name in sorted(wanted.keys() | found.keys()):
            if found.get(name) != wanted.get(name):
                raise UserError(
                    f"{keep.folder}: its responses were sampled with {name} = "
                    f"{found.get(name)!r}, and these would be with {wanted.get(name)!r}",
                    "give another --out, or remove that folder",
                )
    write_whole(keep.file(CONDITIONS), json.dumps(wanted, indent=1))


def digest_weights(model: Path) -> str:
    """A hash of what a model's folder computes with: its weights and configuration."""
    found = hashlib.sha256()
    for path in sorted(path for pattern in WEIGHTS for path in model.glob(pattern)):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        found.update(f"{path.name} {content}\n".encode())
    return found.hexdigest()[:16]


def folder_name(target: str) -> str:
    """A target's name as that of a folder."""
    return re.sub(r"[^\w.-]+", "-", target).strip("-.") or "target"


class KeptResponses:
    """Looks each response up before it asks an engine for it, and writes down what that samples.

    A response is a function of its prompt's tokens and its seed, by which it is found. One that
    ended by itself is the same with any limit that leaves room for it; one that was truncated needs
    the same limit. Its log μ is not kept: that of one which is read is 0.

    start  starts the engine; called for the first response that is missing, or `now`, since the
           time limit of an episode would not wait for it
    """

    def __init__(self, start: Callable[[], EngineProtocol], keep: Keep, now: bool = False) -> None:
        self._start = start
        self._engine = start() if now else None
        self._records = Records(keep.file(RESPONSES))
        self._records.end_line()
        self._known: dict[tuple[str, int | None], Rollout] = {}
        for path in keep.files(RESPONSES):
            for line in iterate(path, ResponseLine, Damage()):
                ids = tuple(line["token_ids"])
                zeros = (0.0,) * len(ids)
                found = Rollout(ids, zeros, line["text"], line["truncated"])
                self._known[line["key"], line["limit"] if found.truncated else None] = found

    def generate(
        self, requests: Requests, sampling: Sampling
    ) -> Generator[tuple[Key, Rollout], None, None]:
        """See `EngineProtocol.generate`. The known responses come first."""
        missing: dict[Key, Request] = {}
        while (taken := requests.take(wait=True)) is not None:
            for request in taken:
                if (known := self._find(request)) is not None:
                    yield request.key, known
                else:
                    missing[request.key] = request
            if not taken and not requests.coming:
                break
        if not missing:
            return
        feed = _Rest(missing, requests)
        self._engine = self._engine or self._start()
        with closing(self._engine.generate(feed, sampling)) as sampled:
            for key, rollout in sampled:
                self._keep(feed.asked.pop(key), rollout)
                yield key, rollout

    def _find(self, request: Request) -> Rollout | None:
        key, limit = _key(request), request.max_new_tokens
        ended = self._known.get((key, None))
        fits = ended is not None and len(ended.token_ids) <= limit
        return ended if fits else self._known.get((key, limit))

    def _keep(self, request: Request, rollout: Rollout) -> None:
        line: ResponseLine = {
            "key": _key(request),
            "limit": request.max_new_tokens,
            "token_ids": list(rollout.token_ids),
            "text": rollout.text,
            "truncated": rollout.truncated,
        }
        self._records.append(line)


class _Rest:
    """A feed that begins with requests which were taken from another before.

    asked  requests that are not answered yet
    """

    def __init__(self, first: Mapping[Key, Request], rest: Requests) -> None:
        self.in_rounds = rest.in_rounds
        self.asked = dict(first)
        self._first: Sequence[Request] | None = list(first.values())
        self._rest = rest

    @property
    def coming(self) -> bool:
        """See `Requests.coming`."""
        return self._rest.coming

    def take(self, wait: bool) -> Sequence[Request] | None:
        """See `Requests.take`."""
        if self._first is not None:
            taken, self._first = self._first, None
            return taken
        more = self._rest.take(wait)
        self.asked.update((request.key, request) for request in more or ())
        return more


def _key(request: Request) -> str:
    content = repr((request.prompt_ids, request.seed))
    return hashlib.sha256(content.encode()).hexdigest()[:32]
