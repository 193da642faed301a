"""What the plain backend takes from a program without bubblewrap: root, and the machine's files.

Standard library only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from drpo_cli.sandbox import landlock, limits

_FIRST_UID = 0x40000000  # far above those of accounts; plus the process id, it is unique
_SYSTEM = (
    *("/usr", "/bin", "/lib", "/lib32", "/lib64", "/sbin", "/etc/ld.so.cache", "/etc/localtime"),
    # Not zero: its memory, when it is shared, no limit would count.
    *("/dev/urandom", "/dev/random"),
)


def confine(readable: Iterable[str], folder: str) -> None:
    """Leaves this process Python, the system's libraries, a few devices and its own folder."""
    if landlock.version() > 0:
        own = f"/proc/{os.getpid()}"
        landlock.restrict([*_SYSTEM, own, *readable], [folder, "/dev/null"])


def find_spare_uid(needed: Iterable[str | Path]) -> int | None:
    """A user id that nothing else runs as, for a program that is started by root.

    None without root, where the user namespace does not have such ids, and where another user
    could not read the files `needed`.
    """
    if sys.platform != "linux" or os.getuid() != 0:
        return None
    uid = _FIRST_UID + os.getpid()
    known = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    if not any(int(first) <= uid < int(first) + int(size) for first, _, size in known):
        return None
    return uid if all(_readable_by_others(Path(path).resolve()) for path in needed) else None


def become(uid: int) -> None:
    """Gives up root for this user. Raises OSError where that is not allowed."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    limits.prctl(limits.SET_DUMPABLE, 1)  # or its folder in /proc would still be root's


def _readable_by_others(path: Path) -> bool:
    folders = [path, *path.parents] if path.is_dir() else list(path.parents)
    return all(folder.stat().st_mode & 0o001 for folder in folders) and bool(
        path.stat().st_mode & 0o004
    )
