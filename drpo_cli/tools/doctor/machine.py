"""Cores, memory, limits, folders and the sandbox of this machine."""

from __future__ import annotations

import math
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from drpo_cli.errors import UserError
from drpo_cli.processes import cores
from drpo_cli.sandbox.run import find_backend, stops
from drpo_cli.tools.doctor.findings import Finding, ok, warning, wrong

GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")
PIDS = Path("/sys/fs/cgroup/pids.max")
OPEN_FILES, PROCESSES = 4096, 1024
"""What a run may need, besides the processes of its rewards."""
LITTLE = 2 * GIB
"""Free bytes of a folder below which it is worth a warning."""
BUBBLEWRAP = "install bubblewrap (apt-get install bubblewrap); docs/sandbox.md is about containers"


def check_threads(gpus: int) -> Iterator[Finding]:
    """The number of cores, and whether OMP_NUM_THREADS fits it."""
    have, given = cores(), os.environ.get("OMP_NUM_THREADS")
    text = f"{have} core{'s' * (have > 1)}"
    share = max(1, have // max(1, gpus))
    fix = f"unset OMP_NUM_THREADS, or set it to {share}"
    if given is None:
        yield ok("CPU", f"{text}, {share} thread{'s' * (share > 1)} per process")
    elif not given.isdecimal() or not int(given):
        found = f"{text}; OMP_NUM_THREADS is {given!r}, which is not a number of threads"
        yield warning("CPU", found, fix)
    elif int(given) > share:
        found = f"{text}; OMP_NUM_THREADS is {given}: more threads than cores slow each other down"
        yield warning("CPU", found, fix)
    elif int(given) < share and not gpus:
        found = f"{text}; OMP_NUM_THREADS is {given}, so a process uses only {given} of them"
        yield warning("CPU", found, f"{fix}, unless you use --nproc {have // int(given)}")
    else:
        yield ok("CPU", f"{text}, OMP_NUM_THREADS {given}")


def check_memory() -> Iterator[Finding]:
    """Main memory."""
    import psutil

    found = psutil.virtual_memory()
    free, total = found.available / GIB, found.total / GIB
    text = f"{total:.1f} GiB, {free:.1f} GiB free"
    if free < 2:
        yield warning("memory", text, "end other programs; torch and an engine alone need 2 GiB")
    else:
        yield ok("memory", text)


def check_shared_memory(gpus: int) -> Iterator[Finding]:
    """/dev/shm, through which the ranks of NCCL and data loaders exchange tensors."""
    if not SHARED_MEMORY.is_dir():
        yield warning("shared memory", f"{SHARED_MEMORY} does not exist", "mount a tmpfs there")
        return
    usage = shutil.disk_usage(SHARED_MEMORY)
    text = f"{SHARED_MEMORY}: {usage.total / GIB:.2f} GiB, {usage.free / GIB:.2f} GiB free"
    if not os.access(SHARED_MEMORY, os.W_OK):
        yield wrong("shared memory", f"{text}, not writable", f"chmod 1777 {SHARED_MEMORY}")
    elif usage.free < (GIB if gpus > 1 else GIB // 16):
        yield warning("shared memory", text, "docker run --shm-size=8g, or --ipc=host")
    else:
        yield ok("shared memory", text)


def check_limits(reward_processes: int) -> Iterator[Finding]:
    """How many files this user may open, and how many processes it may start."""
    files = _limit(resource.RLIMIT_NOFILE)
    group = PIDS.read_text().strip() if PIDS.is_file() else "max"
    in_group = float(group) if group.isdecimal() else math.inf
    processes = min(_limit(resource.RLIMIT_NPROC), in_group)
    needed = PROCESSES + reward_processes
    fixes = []
    if files < OPEN_FILES:
        fixes.append(f"ulimit -n {OPEN_FILES}")
    if processes < needed:
        fixes.append(f"ulimit -u {needed}; in docker, --pids-limit -1")
    text = f"{_format_limit(files)} open files, {_format_limit(processes)} processes"
    yield warning("limits", text, "; ".join(fixes)) if fixes else ok("limits", text)


def _limit(kind: int) -> float:
    soft, _ = resource.getrlimit(kind)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def _format_limit(number: float) -> str:
    return "unlimited" if math.isinf(number) else f"{number:,.0f}"


def hub_cache() -> Path:
    """Where models and data sets of the Hugging Face hub are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("HF_HOME") or Path(cache, "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def temporary_folder() -> Path:
    """Where temporary files go. Raises FileNotFoundError where no folder is usable."""
    return Path(os.environ.get("TMPDIR") or tempfile.gettempdir())


def check_folder(check: str, path: Path, setting: str, needed: int = 0) -> Iterator[Finding]:
    """Whether the folder, or its nearest existing parent, is writable and has `needed` bytes.

    setting  the key or variable that chooses another folder
    """
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        fix = f"make it writable, or set {setting} to another folder"
        yield wrong(check, f"{path} is not writable: {error.strerror}", fix)
        return
    free = shutil.disk_usage(existing).free
    text = f"{path}: writable, {free / GIB:.1f} GiB free"
    fix = f"free some space, or set {setting} to another folder"
    if free < max(needed, LITTLE // 16):
        want = f", and the checkpoints of this spec take {needed / GIB:.1f} GiB" if needed else ""
        yield wrong(check, text + want, fix)
    elif free < needed + LITTLE:
        yield warning(check, text, fix)
    else:
        yield ok(check, text)


def check_sandbox(needed: str | None) -> Iterator[Finding]:
    """Which sandbox works for code that a model writes.

    needed  the backend that a reward asks for, `none` where no reward runs code; None without a
            spec: then any backend that works is reported
    """
    try:
        find_backend("bubblewrap")
    except UserError as error:
        refusal = error.what
    else:
        yield ok("sandbox", "bubblewrap works")
        return
    if needed == "bubblewrap":
        yield wrong("sandbox", refusal, BUBBLEWRAP)
        return
    try:
        find_backend("auto" if needed == "auto" else "plain")
    except UserError as error:
        if needed == "none":
            yield ok("sandbox", "none works, but no reward of this spec runs code")
        else:
            yield wrong("sandbox", f"{refusal}; {error.what}", f"{BUBBLEWRAP}; {error.fix}")
        return
    if needed == "none":
        yield ok("sandbox", "plain works; no reward of this spec runs code")
        return
    allowed = ", ".join(name for name, stopped in stops("plain").items() if not stopped)
    text = "plain works, bubblewrap does not"
    if allowed:
        text += f"; plain does not stop: {allowed}"
    if os.getuid() == 0:
        text += '; as root it must be named: backend = "plain"'
    yield warning("sandbox", f"{text} ({refusal})", BUBBLEWRAP)
