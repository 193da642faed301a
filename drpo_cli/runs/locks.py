"""Locks of a run folder, and who holds them.

The system's own locks (`flock`) are gone with the process that held them. Some network file systems
have none; there a file `LOCK.holder` stands in, which names the process that made it. One that is
left by a dead process of this machine is taken over.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from drpo_cli.errors import UserError, writing

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""What `flock` answers on a file system without locks."""
TRIES, PAUSE_S = 10, 0.02


class Holder(NamedTuple):
    """A process that holds a lock; `started` tells it from a later one with the same number."""

    host: str
    process: int
    started: float

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    def is_dead(self) -> bool:
        """Whether it has certainly ended; one on another machine may still run."""
        return self.host == socket.gethostname() and _started(self.process) != self.started


@contextmanager
def hold(lock: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Holds a lock; the system releases it when the process dies.

    Calls `warn` when the file system has no locks. Raises UserError when another process holds
    it, and OSError.
    """
    handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        supported = _retry(handle, lock)
        if supported:
            with writing(lock):
                os.ftruncate(handle, 0)
                os.pwrite(handle, _own(), 0)
            yield
            return
        warn(
            f"{lock.parent}: this file system has no locks; files *.holder stand in, which another "
            f"machine cannot check: start no second run there"
        )
        with _held_by_file(lock):
            yield
    finally:
        os.close(handle)


def holder(lock: Path) -> Holder | None:
    """The process that holds a lock; None for a free one. Writes nothing."""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(lock) or Holder("this machine", 0, 0.0)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        found = _read(_stand_in(lock))
        return None if found is None or found.is_dead() else found
    finally:
        os.close(handle)
    return None


def _retry(handle: int, lock: Path) -> bool:
    # `holder` takes the lock for a moment, so one refusal does not mean a run.
    for attempt in range(TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0 if attempt == TRIES - 1 else PAUSE_S)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return False
    raise _in_use(lock, _read(lock))


@contextmanager
def _held_by_file(lock: Path) -> Iterator[None]:
    file = _stand_in(lock)
    _remove_dead(file)
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        raise _in_use(lock, _read(file), file) from None
    try:
        with writing(file):
            os.write(handle, _own())
        os.close(handle)
        yield
    finally:
        file.unlink(missing_ok=True)


def _remove_dead(file: Path) -> None:
    found = _read(file)
    if found is None or not found.is_dead():
        return
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    with suppress(FileNotFoundError):  # another process was faster
        file.rename(aside)
        if _read(aside) == found:
            aside.unlink()
        else:  # another process was faster, and holds it now
            aside.rename(file)


def _in_use(lock: Path, found: Holder | None, file: Path | None = None) -> UserError:
    fix = "wait for it, stop it, or set run.name to another name"
    if file is not None and (found is None or found.host != socket.gethostname()):
        fix += f"; if it has ended, delete {file}"
    by = f" ({found})" if found else ""
    return UserError(f"{lock.parent} is in use by a run that has not ended{by}", fix)


def _stand_in(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.holder")


def _own() -> bytes:
    number = os.getpid()
    return json.dumps(Holder(socket.gethostname(), number, _started(number) or 0.0)).encode()


def _read(file: Path) -> Holder | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Holder) if file.is_file() else None
    except (OSError, msgspec.DecodeError):
        return None


def _started(process: int) -> float | None:
    import psutil

    try:
        return float(psutil.Process(process).create_time())
    except psutil.Error:
        return None
