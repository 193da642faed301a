"""Runs verbs where the file system says no: `FOLDER RUN SPEC OUT.json`, in a mount namespace.

FOLDER may be filled, RUN is a run folder with a checkpoint, SPEC the spec of a run. OUT.json gets,
for each place and verb, the exit code, what stderr got, and what was left behind.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import drpo_cli.cli

PLACES = (
    "read_only", "denied", "full", "file_limit", "long_name", "below_a_file", "loop", "dangling",
    "a_file", "a_folder",
)  # fmt: skip
VERBS = ("export", "train", "report", "watch", "explain", "init")
FINE = {"a_file report", "a_file watch", "a_file explain", "a_folder train"}
"""These replace the file, or write beside others into the folder."""
CAPABILITIES = "-dac_override,-dac_read_search"  # with these, root may write anywhere
COMMAND = (
    "unshare", "--user", "--map-root-user", "--mount",
    "setpriv", f"--bounding-set={CAPABILITIES}", "--inh-caps=-all",
)  # fmt: skip


def arguments(verb: str, run: Path, spec: Path, out: Path) -> list[object]:
    """The arguments with which a verb writes to `out`."""
    if verb == "train":
        return ["train", spec, "--set", f"run.folder={json.dumps(str(out))}"]
    if verb == "explain":
        return ["explain", "drpo", "--out", out.with_suffix(".svg")]
    if verb == "watch":
        return ["watch", run, "--out", out.with_suffix(".svg")]
    return {
        "export": ["export", run, out],
        "report": ["report", run, "--out", out],
        "init": ["init", out],
    }[verb]


@contextmanager
def place(kind: str, folder: Path) -> Iterator[Path]:
    """Makes a place that nothing can be written to; yields a path there."""
    out = _make(kind, folder)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if kind == "file_limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield out
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _make(kind: str, folder: Path) -> Path:
    here = folder / kind
    out = here / "out"
    if kind == "long_name":
        return folder / ("x" * 300)
    if kind == "below_a_file":
        here.write_text("a file")
    elif kind in ("loop", "dangling"):
        here.symlink_to(here if kind == "loop" else folder / "nowhere")
    else:
        here.mkdir(0o555 if kind == "denied" else 0o755)
    if kind in ("read_only", "full"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", here], check=True)
        (here / "filler").write_bytes(bytes(16384))
    if kind == "read_only":
        subprocess.run(["mount", "-o", "remount,ro", here], check=True)
    if kind in ("a_file", "a_folder"):
        for name in (out, out.with_suffix(".svg")):
            mine = name if kind == "a_file" else name / "mine"
            mine.parent.mkdir(exist_ok=True)
            mine.write_text("mine")
    return out


def drpo(*words: object) -> tuple[int, str]:
    """Runs the command in this process; its exit code, and what it wrote to stderr."""
    sys.argv = ["drpo", *map(str, words)]
    code = 0
    with _stderr() as said:  # of the descriptor, which the command's own streams write to
        try:
            drpo_cli.cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            sys.stderr.write(traceback.format_exc())
            code = 1
    return code, "".join(said)


@contextmanager
def _stderr() -> Iterator[list[str]]:
    """Collects what this process writes to stderr, and drops its stdout."""
    said: list[str] = []
    source, sink = os.pipe()  # a file would fall under the limit on files
    os.set_blocking(source, False)
    nothing = os.open(os.devnull, os.O_WRONLY)
    kept = os.dup(1), os.dup(2)
    os.dup2(nothing, 1)
    os.dup2(sink, 2)
    try:
        yield said
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in enumerate(kept, start=1):
            os.dup2(before, number)
        with suppress(BlockingIOError):
            said.append(os.read(source, 1 << 16).decode())
        for handle in (source, sink, nothing, *kept):
            os.close(handle)


def names(folder: Path) -> list[str]:
    """The files in a folder, apart from the locks of a run."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.endswith(".lock"))


def main(folder: Path, run: Path, spec: Path) -> dict[str, Any]:
    """Tries each verb in each place."""
    found = {}
    for kind in PLACES:
        with place(kind, folder) as out:
            for verb in VERBS:
                if f"{kind} {verb}" in FINE:
                    continue
                before = names(folder)
                code, said = drpo(*arguments(verb, run, spec, out))
                left = sorted(set(names(folder)) - set(before))
                found[f"{kind} {verb}"] = [code, said, left]
    subprocess.run(["mount", "--bind", run, run], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", run], check=True)
    for name, words in {
        "resume": ["train", spec, "--resume", "--set", "run.steps=9"],
        "export": ["export", run, run / "out"],
        "report": ["report", run],
        "elsewhere": ["export", run, folder / "exported"],
        "read": ["report", run, "--out", folder / "page.html"],
    }.items():
        found[f"read_only_run {name}"] = [*drpo(*words), []]
    return found


if __name__ == "__main__":
    *paths, out = map(Path, sys.argv[1:])
    out.write_text(json.dumps(main(*paths)))
