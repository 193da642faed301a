"""What the plain backend takes from a program without bubblewrap: root, and some system calls.

Standard library only, except `build_call_filter`, which the caller's process calls.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from drpo_cli.rewards.sandbox import limits

_FIRST_UID = 0x40000000  # far above those of accounts; plus the process id, it is unique
_SET_SECCOMP, _FILTER, _INSTRUCTION_BYTES = 22, 2, 8
_REACHING_OTHERS = (  # calls that look into other processes, or get round the filter
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_send_signal",
    "pidfd_getfd",
    "io_uring_setup",
)


@lru_cache
def build_call_filter() -> bytes | None:
    """A seccomp filter for `install_call_filter`, made by libseccomp; None where that is missing.

    It refuses sockets other than Unix ones, signals to all processes at once, and system calls
    that look into other processes.
    """
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError):  # RuntimeError: no libseccomp.so on this machine
        return None
    filter = seccomp.SyscallFilter(seccomp.ALLOW)
    refuse = seccomp.ERRNO(errno.EPERM)
    filter.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.NE, socket.AF_UNIX))
    everyone = 0xFFFFFFFF  # −1 as the kernel reads it: 32 bits of the argument
    filter.add_rule(refuse, "kill", seccomp.Arg(0, seccomp.MASKED_EQ, everyone, everyone))
    for name in _REACHING_OTHERS:
        filter.add_rule(refuse, name)
    with tempfile.TemporaryFile() as file:
        filter.export_bpf(file)
        file.seek(0)
        return file.read()


def install_call_filter(program: bytes) -> None:
    """Puts the filter on this process and all that it starts, for good. Raises OSError.

    Call it after `no new privileges` is set.
    """
    kept = ctypes.create_string_buffer(program, len(program))
    count = len(program) // _INSTRUCTION_BYTES
    header = struct.pack("HxxxxxxP", count, ctypes.addressof(kept))
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_SECCOMP, _FILTER, header, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_SECCOMP")


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
