"""System calls that a program in the sandbox cannot make, as a seccomp filter.

`build_call_filter` is for the caller's process, where the package pyseccomp is; the first process
inside the sandbox installs what it gives.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import tempfile
from functools import lru_cache

_REFUSED = (
    # into other processes
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp"),
    *("pidfd_send_signal", "pidfd_getfd", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
    *("migrate_pages", "move_pages"),
    # namespaces and file systems of its own
    *("unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "fsopen", "fsmount"),
    *("fsconfig", "fspick", "move_mount", "open_tree", "mount_setattr", "open_by_handle_at"),
    # sockets: a pair that is connected to itself, `socketpair`, stays
    "socket",
    # memory that no limit counts, and that may outlive the program
    *("memfd_create", "memfd_secret", "shmget", "shmat", "shmctl", "msgget", "semget", "mq_open"),
    *("add_key", "request_key", "keyctl"),
    # large and seldom used parts of the kernel, some of them ways round this filter
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "bpf"),
    *("perf_event_open", "fanotify_init", "quotactl", "syslog", "acct", "swapon", "swapoff"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname"),
    *("setdomainname", "iopl", "ioperm", "modify_ldt", "vhangup"),
)
_OF_OTHERS = {  # calls about one process: place of its id, which may only be 0, the caller itself
    "prlimit64": 0,
    "sched_setaffinity": 0,
    "sched_setscheduler": 0,
    "sched_setparam": 0,
    "sched_setattr": 0,
    "setpriority": 1,
    "ioprio_set": 1,
}
_ATTRIBUTES = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat"),
    *("setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"),
    *("utime", "utimes", "utimensat", "futimesat"),
)
_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_ALL_BITS = 0xFFFFFFFF  # of an argument that the kernel reads as 32 bits


@lru_cache
def build_call_filter(own_files: bool = True) -> bytes | None:
    """The filter, made by libseccomp; None where that is missing.

    own_files  all files that the program's user may change are the program's own. If not, calls
               that change a file's attributes do nothing: Landlock does not keep them to a folder
    """
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError):  # RuntimeError: no libseccomp.so on this machine
        return None
    filter = seccomp.SyscallFilter(seccomp.ALLOW)
    refuse = seccomp.ERRNO(errno.EPERM)

    def masked(place: int, mask: int, value: int) -> object:
        return seccomp.Arg(place, seccomp.MASKED_EQ, mask, value)

    ignored = {} if own_files else dict.fromkeys(_ATTRIBUTES, seccomp.ERRNO(0))
    for name, action in (dict.fromkeys(_REFUSED, refuse) | ignored).items():
        # One that this version of libseccomp has no number for is later than it.
        if seccomp.resolve_syscall(seccomp.system_arch(), name) >= 0:
            filter.add_rule(action, name)
    # Its flags are in memory, where no filter looks; libraries then take `clone`.
    filter.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    for flag in _NAMESPACES:
        filter.add_rule(refuse, "clone", masked(0, flag, flag))
    for name, place in _OF_OTHERS.items():
        filter.add_rule(refuse, name, seccomp.Arg(place, seccomp.NE, 0))
    filter.add_rule(refuse, "kill", masked(0, _ALL_BITS, _ALL_BITS))  # −1: everyone
    for request in _TERMINAL_INPUT:
        filter.add_rule(refuse, "ioctl", masked(1, _ALL_BITS, request))
    filter.add_rule(refuse, "fcntl", masked(1, _ALL_BITS, getattr(fcntl, "F_SETPIPE_SZ", 1031)))
    # Shared memory without a file stays in memory when it is no longer mapped in whole.
    shared = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
    filter.add_rule(refuse, "mmap", masked(3, shared, shared))
    with tempfile.TemporaryFile() as file:
        filter.export_bpf(file)
        file.seek(0)
        return file.read()
