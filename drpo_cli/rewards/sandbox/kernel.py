"""What Linux takes from a process on request: its view of the machine, its user, some calls.

It goes to the kernel by ctypes, since Python 3.11 has none of it. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path

from drpo_cli.rewards.sandbox.init import SET_DUMPABLE, prctl

INSIDE_ID = 1000  # the program's user inside a user namespace; any but 0
_NEW_MOUNTS, _NEW_UTS, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PIDS, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
_MOUNT_RDONLY, _MOUNT_NOSUID, _MOUNT_NODEV, _MOUNT_REC, _MOUNT_PRIVATE = 1, 2, 4, 0x4000, 1 << 18
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000

_SET_SECCOMP, _SECCOMP_FILTER = 22, 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _MACHINE_AT, _ARGUMENT_AT = 0, 4, 16
_X32 = 0x40000000  # the second numbering of x86-64's system calls
# The machine's audit number; `socket`, `kill`, and what reaches into other processes: ptrace,
# process_vm_readv, process_vm_writev, pidfd_send_signal, io_uring_setup, pidfd_getfd.
_MACHINES = {
    "x86_64": (0xC000003E, 41, 62, (101, 310, 311, 424, 425, 438)),
    "aarch64": (0xC00000B7, 198, 129, (117, 270, 271, 424, 425, 438)),
}


def _call(name: str, *arguments: int | bytes | None) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def become_nobody(uid: int) -> None:
    """Gives up root for a user that nothing else runs as. Raises OSError where it may not."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    prctl(SET_DUMPABLE, 1)  # or /proc/self would stay root's


def unshare() -> None:
    """New namespaces for this process, and of processes for its children.

    Raises OSError where the kernel, or the container this runs in, does not allow it.
    """
    uid, gid = os.getuid(), os.getgid()
    flags = _NEW_USER | _NEW_MOUNTS | _NEW_UTS | _NEW_IPC | _NEW_PIDS | _NEW_NETWORK
    _call("unshare", flags)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{INSIDE_ID} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{INSIDE_ID} {gid} 1")
    _call("mount", b"none", b"/", None, _MOUNT_REC | _MOUNT_PRIVATE, None)


def confine_writes(folder: str, size: int) -> None:
    """Everything becomes read-only but new memory disks of `size` bytes at `folder` and /dev/shm.

    Call it after `unshare`. Raises OSError before Linux 5.12.
    """
    attributes = struct.pack("QQQQ", _MOUNT_RDONLY | _MOUNT_NOSUID, 0, 0, 0)
    _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, len(attributes))
    if os.path.isdir("/dev/shm") and not folder.startswith("/dev/shm/"):
        _memory_disk("/dev/shm", f"size={size},mode=700")
    _memory_disk(folder, f"size={size},mode=700")


def new_proc() -> int | None:
    """Puts the /proc of this process's PID namespace in place of the outer one.

    Where that is refused, as in most containers, /proc becomes empty: the outer one shows the
    environments of other processes. Returns an open folder of the outer one in that case.
    """
    outer = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        _call("mount", b"proc", b"/proc", b"proc", _MOUNT_NOSUID | _MOUNT_NODEV, None)
    except OSError:
        _memory_disk("/proc", "size=0,mode=555")
        return outer
    os.close(outer)
    return None


def _memory_disk(path: str, options: str) -> None:
    flags = _MOUNT_NOSUID | _MOUNT_NODEV
    _call("mount", b"tmpfs", os.fsencode(path), b"tmpfs", flags, options.encode())


def can_filter() -> bool:
    """Whether the kernel has such filters, and `refuse_calls` knows the machine."""
    return platform.machine() in _MACHINES and os.path.exists("/proc/sys/kernel/seccomp")


def refuse_calls() -> None:
    """Refuses sockets other than Unix ones, kill(−1), and reaching into other processes, for good.

    Needs `no new privileges`. Raises OSError where the kernel has no seccomp filters.
    """
    machine, socket, kill, others = _MACHINES[platform.machine()]
    refuse = _REFUSE | errno.EPERM
    program = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, refuse),
    ]
    for call in others:
        program += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, refuse)]
    program += _only_if(socket, [(_EQUAL, 1, 0, 1), (_RETURN, 0, 0, refuse)])
    program += _only_if(kill, [(_EQUAL, 0, 1, 0xFFFFFFFF), (_RETURN, 0, 0, refuse)])
    program.append((_RETURN, 0, 0, _ALLOW))
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    kept = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(kept))
    _call("prctl", _SET_SECCOMP, _SECCOMP_FILTER, header, 0, 0)


def _only_if(call: int, judge: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """`judge` sees the first argument of this call, and lets it through at its end."""
    body = [(_LOAD, 0, 0, _ARGUMENT_AT), *judge, (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(body), call), *body]
