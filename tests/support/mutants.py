"""Run folders that something went wrong with, or that a stranger made: one change at a time."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli
import tomli_w

RECORDS = ("metrics.jsonl", "samples.jsonl", "events.jsonl", "held_out.jsonl", "quarantine.jsonl")
FILES = (*RECORDS, "spec.toml", "versions.json")

# JSON texts that stand in a value's place
VALUES = (
    "null", "true", "-1", "0", "2", "1.5", "-0.0", "1e999", "-1e999", "NaN", "Infinity", "1e308",
    "5e-324", "9007199254740993", "1" * 400, "1" * 5000, "-" + "1" * 30,
    '""', '"text"', '"2026-11-28"', r'"\ud800"', r'"\u0000"', r'"\u001b[2J\u202e"', '"[/][red]"',
    '"$x^{_"', '"<script>"', "[]", "{}", "[1, 2]", '["a"]', "[null]", "[[1]]", '{"a": 1}',
    '{"a": null}', '{"a": "b"}', '{"a": {"b": 1}}', '{"\\ud800": 1}', '{"": 0.5}',
    "[" * 30 + "]" * 30, "[" * 100 + "]" * 100, "[" * 900 + "]" * 900, "[" * 90000 + "]" * 90000,
    '{"a":' * 500 + "1" + "}" * 500,
)  # fmt: skip

LINES = (
    b"", b"{}", b"[]", b"null", b"3", b'"x"', b"{", b"}", b"\x00" * 9, b"\xff\xfe", b"\xef\xbb\xbf",
    b"not json", b'{"step": 1}', b'{"step": -1}', b'{"step": 1e9}', b'{"step": 99999999999999999}',
    b'{"step": "1", "reward": 0.5}', b'{"step": 2, "reward": 0.5}', b'{"time": 1, "text": "x"}',
    b'{"step": 3, "prompt": "p", "completion": "c"}',
    b'{"time": 1e11, "text": "x", "state": "finished"}', b'{"time": "noon", "text": "x"}',
    b'{"time": 1, "text": "x", "state": "flying"}', b'{"time": 1, "text": "", "resumed": "no"}',
    b'{"step": 1, "rates": []}', b'{"step": 1, "rates": [2, -1]}', b'{"step": 0, "rates": [0.5]}',
    b'{"reward": "r", "reason": "x", "completion": ["a", "b"]}', b'{"reward": "r", "reason": "x"}',
)  # fmt: skip


def mutate(folder: Path, seed: int) -> str:
    """Changes one file of a run folder and says how; not one that an earlier change replaced."""
    rng = random.Random(seed)
    file = folder / rng.choice(FILES)
    if file.is_symlink() or not file.is_file() or file.stat().st_size > 2**30:
        return ""
    kinds = [_value, _value, _key, _lines, _bytes, _instead]
    change = rng.choice(kinds)
    return f"seed {seed}: {file.name} {change.__name__} {change(file, rng)}"


def _value(file: Path, rng: random.Random) -> str:
    """Another value in the place of one; with a hole in the text, so that JSON may be any."""
    new = rng.choice(VALUES)
    at, table, rest = _take(file, rng)
    *above, last = rng.choice(_paths(table) or [("x",)])
    _inside(table, above)[last] = "HOLE"
    _put(file, rest, at, table, new)
    return f"{above} {last} = {new[:40]}"


def _key(file: Path, rng: random.Random) -> str:
    """A key less, or an unknown one more."""
    at, table, rest = _take(file, rng)
    paths = [path for path in _paths(table) if isinstance(_inside(table, path[:-1]), dict)]
    if rng.random() < 0.5 and paths:
        *above, last = rng.choice(paths)
        del _inside(table, above)[last]
        _put(file, rest, at, table, "1")
        return f"without {above} {last}"
    new = rng.choice(VALUES)
    table[rng.choice(["extra", "grading", "rewards", "seconds", "", "a.b", "$x"])] = "HOLE"
    _put(file, rest, at, table, new)
    return f"with a key = {new[:40]}"


def _lines(file: Path, rng: random.Random) -> str:
    lines = file.read_bytes().splitlines()
    at = rng.randrange(len(lines) + 1)
    line = rng.choice([*LINES, *lines])
    what = rng.choice(["insert", "replace", "shuffle", "repeat"])
    if what == "insert":
        lines.insert(at, line)
    elif what == "replace":
        lines[at : at + 1] = [line]
    elif what == "repeat":
        lines *= 2
    else:
        rng.shuffle(lines)
    file.write_bytes(rng.choice([b"\n", b"\r\n", b"\n\n"]).join(lines) + rng.choice([b"\n", b""]))
    return f"{what} {line[:40]!r} at {at}"


def _bytes(file: Path, rng: random.Random) -> str:
    whole = bytearray(file.read_bytes())
    at = rng.randrange(len(whole))
    what = rng.choice(["cut", "flip", "insert", "empty"])
    if what == "cut":
        del whole[at:]
    elif what == "flip":
        whole[at] = rng.randrange(256)
    elif what == "insert":
        whole[at:at] = rng.choice(
            [b"\x00", b"\xff", b"\n", b"\x1b[2J", b'"', b"}", b"\xed\xa0\x80"]
        )
    else:
        whole.clear()
    file.write_bytes(whole)
    return f"{what} at {at}"


def _instead(file: Path, rng: random.Random) -> str:
    file.unlink()
    name = rng.choice(list(INSTEAD))
    INSTEAD[name](file)
    return name


def _bind(file: Path) -> None:
    where = Path.cwd()
    os.chdir(file.parent)  # the path of a socket may have 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as own:
            own.bind(file.name)
    finally:
        os.chdir(where)


INSTEAD: dict[str, Callable[[Path], object]] = {
    "nothing": lambda file: None,
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "socket": _bind,
    "zeros": lambda file: file.symlink_to("/dev/zero"),
    "terminal": lambda file: file.symlink_to("/dev/tty"),
    "itself": lambda file: file.symlink_to(file.name),
    "nowhere": lambda file: file.symlink_to("gone"),
    "memory": lambda file: file.symlink_to("/proc/self/mem"),
    "hole": lambda file: _hole(file),
}


def _hole(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(2**40)


def _take(file: Path, rng: random.Random) -> tuple[int, dict[str, Any], list[str]]:
    """A table of the file: of a records file one line, and the other lines."""
    if file.name not in RECORDS:
        text = file.read_text()
        return 0, tomli.loads(text) if file.suffix == ".toml" else json.loads(text), []
    lines = file.read_text().splitlines()
    at = rng.randrange(len(lines))
    return at, json.loads(lines.pop(at)), lines


def _put(file: Path, rest: list[str], at: int, table: dict[str, Any], hole: str) -> None:
    if file.suffix == ".toml":
        file.write_text(tomli_w.dumps(table).replace('"HOLE"', hole))
        return
    rest.insert(at, json.dumps(table).replace('"HOLE"', hole))
    file.write_text("".join(f"{line}\n" for line in rest))


def _paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in pairs:
        found.append((*above, key))
        if isinstance(inner, dict | list):
            found += _paths(inner, (*above, key))
    return found


def _inside(table: Any, path: Any) -> Any:
    for key in path:
        table = table[key]
    return table


def copy(run: Path, to: Path) -> Path:
    """A fresh copy of a run folder, in the place of an older one."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(run, to)
    return to
