"""The command line of bubblewrap: a root of its own that holds little more than Python."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOLDER, SHARED = "/tmp", "/dev/shm"
DISKS = (FOLDER, SHARED)
PROGRAM = "/sandbox/program.py"
_LIMITS = "/sandbox/limits.py"
_SYSTEM = ("/bin", "/lib", "/lib32", "/lib64", "/sbin")


def command(job: dict[str, Any], program: str, python: str, roots: list[str]) -> list[str]:
    """The command that runs `job` inside.

    program  path of the program's source, outside
    python   the interpreter; `roots` are the folders that hold it and its libraries
    """
    size = str(job["limits"]["folder_mib"] << 20)
    return [
        *("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1"),
        # The filter refuses namespaces too; without it, bubblewrap must be able to (0.8 and later).
        *(() if job["call_filter"] else ("--unshare-user", "--disable-userns")),
        *("--cap-drop", "ALL", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
        *_bind_system(),
        # Before the interpreter's folders: one of them may be below it, and would be hidden.
        *("--size", size, "--tmpfs", FOLDER, "--chdir", FOLDER),
        *(word for root in roots if not _is_in_usr(root) for word in ("--ro-bind", root, root)),
        *("--ro-bind", program, PROGRAM),
        *("--ro-bind", str(Path(__file__).with_name("limits.py")), _LIMITS),
        *("--proc", "/proc", "--remount-ro", "/proc", *_make_devices()),
        *("--size", size, "--tmpfs", SHARED, "--remount-ro", "/"),
        *("--", python, "-I", "-S", _LIMITS, json.dumps(job)),
    ]


def _bind_system() -> list[str]:
    words = ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for path in _SYSTEM:
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, path]
    return words


def _make_devices() -> list[str]:
    """Not /dev/zero: its memory, when it is shared, no limit would count."""
    words = ["--dir", "/dev"]
    for name in ("null", "full", "random", "urandom"):
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, link in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        words += ["--symlink", f"/proc/self/fd{link}", f"/dev/{name}"]
    return words


def _is_in_usr(path: str) -> bool:
    return Path("/usr") in (Path(path), *Path(path).parents)
