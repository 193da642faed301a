"""The two kinds of failure: what the user can fix, and everything else (a bug).

What the operating system refuses is of the first kind: `os_message` is the one place that says it.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from types import TracebackType

from drpo_cli import secrets

EXIT_RUN_FAILED = 1
EXIT_USER_ERROR = 2


class UserError(Exception):
    """A mistake that the user can fix. Shown as its message alone, without a traceback; exit 2.

    what  where it is, and what is wrong
    fix   what to do about it; the message is `what; fix`
    """

    def __init__(self, what: str, fix: str = "") -> None:
        what, fix = (secrets.mask_urls(secrets.mask(text)) for text in (what, fix))
        super().__init__(f"{what}; {fix}" if fix else what)
        self.what = what
        self.fix = fix


_SPACE = "free some space"
_ALLOW = "allow this user to write there, or name another folder"
_IN_THE_WAY = "move it away, or name another path"
_SERVER = "see whether its server is up"
_MACHINE = {
    errno.ENOSPC: ("the disk is full", _SPACE),
    errno.EDQUOT: ("the disk quota is used up", f"{_SPACE}, or have the quota raised"),
    errno.EFBIG: ("the file would be larger than allowed", "raise the limit (`ulimit -f`)"),
    errno.EROFS: ("the file system is read-only", "make it writable, or name another folder"),
    errno.EIO: ("the disk reports an input/output error", "check the disk (`dmesg` names it)"),
    errno.EMFILE: ("too many files are open", "raise the limit (`ulimit -n`)"),
    errno.ENFILE: ("too many files are open on this machine", "close other programs"),
    errno.ENOMEM: ("the machine has no memory left", "close other programs, or use less"),
    errno.ESTALE: ("the network file system lost the file", _SERVER),
    errno.ENOTCONN: ("the file system is not connected", _SERVER),
    errno.EHOSTDOWN: ("the file system's server is down", _SERVER),
}
"""Faults of the machine: never a bug, with or without a path."""
_PATHS = {
    errno.EACCES: ("permission denied", _ALLOW),
    errno.EPERM: ("the system does not permit this", _ALLOW),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ENOTDIR: ("a file is where a folder should be", _IN_THE_WAY),
    errno.EISDIR: ("a folder is where a file should be", _IN_THE_WAY),
    errno.EEXIST: ("something else is there already", _IN_THE_WAY),
    errno.ENOTEMPTY: ("the folder is not empty", _IN_THE_WAY),
    errno.ELOOP: ("its symbolic links lead in a circle", "correct the links"),
    errno.ENOENT: ("does not exist", "create it, or name another path"),
    errno.ETIMEDOUT: ("the file system does not answer", _SERVER),
    errno.EBUSY: ("it is in use", "end what uses it"),
    errno.ENODEV: ("the device is gone", "check the disk"),
    errno.ENXIO: ("the device is gone", "check the disk"),
}
"""What is wrong with a path; without one, it may as well be a bug."""


def os_message(error: OSError, elsewhere: object, then: str) -> str | None:
    """What the system refused, where, and what to do; None where it may be a bug.

    elsewhere  the place, for an error that does not name one
    then       what to do once the cause is gone
    """
    number = error.errno or 0
    # An error at a link that leads nowhere, or at a file where a folder should be, names the path
    known = _MACHINE.get(number) or (_PATHS.get(number) if error.filename else None)
    if known is None:
        return None
    what, fix = known
    path = error.filename2 if number in (errno.EEXIST, errno.ENOTEMPTY) else None
    where = os.fsdecode(path or error.filename) if error.filename else elsewhere
    if number in (errno.ENOENT, errno.EEXIST) and Path(str(where)).is_symlink():
        what, fix = "is a symbolic link to nothing", "correct the link"
    return f"{where}: {what}; {fix}, then {then}"


class writing:
    """Names the path in errors of the system that do not: those of a write, and of Rust libraries.

    Raises OSError with the path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        """Does nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raises the error again, with the path."""
        number = 0
        if isinstance(error, OSError) and not error.filename:
            number = error.errno or 0
        elif isinstance(error, Exception) and (found := _RUST.search(str(error))):
            number = int(found[1])
        if number:
            raise OSError(number, os.strerror(number), str(self.path)) from error


_RUST = re.compile(r"\(os error (\d+)\)$")
