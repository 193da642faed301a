"""Processes of ours that start without importing: forks of one that has imported everything.

Most of the time of a test that starts a short run would be the import of torch, transformers and
an engine, once in each process of the run. After `start_warm`, a process that is to be started as
`python -m drpo_cli…`, `python -m support…` or as a fork server of multiprocessing becomes a fork of
a server instead. It is a child of the process that asked, in its session and process group, with
the descriptors, directory, environment and ignored signals that it would have had, and so are the
processes that it starts in turn. What differs: its modules are the server's. So commands that
change how Python or a library is imported start cold, as ever, and so do scripts, what a shell or a
terminal starts (the templates' `try.sh`), and everything on other systems than Linux.
"""

from __future__ import annotations

import _posixsubprocess
import array
import atexit
import ctypes
import gc
import importlib
import inspect
import io
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import patch

from drpo_cli import processes

PRELOAD = (
    "drpo_cli.cli.after",
    "drpo_cli.cli.before",
    "drpo_cli.cli.during",
    "drpo_cli.launch.launcher",
    "drpo_cli.launch.worker",
    "drpo_cli.report.page",
    "drpo_cli.step.loop",
    "drpo_cli.rollout.transformers",
    "drpo_cli.rollout.vllm",
    "bokeh.plotting",
    "scipy.stats",
    "transformers.models.qwen3.modeling_qwen3",
    "vllm.entrypoints.llm",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.qwen3",
)
READ_AT_IMPORT = ("CUDA", "HF_", "LD_PRELOAD", "MALLOC", "OMP_", "PYTHON", "TRANSFORMERS")
"""Beginnings of the names of variables that Python or a library reads when it is imported."""
TESTS = Path(__file__).parents[1]
OURS = ("drpo_cli", "support.")
COLD = (
    "drpo_cli.tools.doctor.probe",
    "support.fake_gpu",
    "support.gpu_steps",
    "support.h100",
    "support.soak",
)
"""Modules that find out what can be imported, pretend another machine, or limit a process."""
FORK_SERVER = "from multiprocessing.forkserver import main"
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_MAX_": -4}
"""Variables of the C library's allocator, and the numbers of its `mallopt` that do the same."""
APPLIED = ("PYTHONPATH", *MALLOPT)
"""Of the variables read at import, those that a fork follows."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LARGEST = 4 << 20  # bytes of a request, most of them the environment

_fork_exec = _posixsubprocess.fork_exec
_AT_START: dict[str, str] = {}


@dataclass
class Start:
    """What a process is started with; its descriptors travel beside it."""

    arguments: list[str]  # without the interpreter
    environment: dict[str, str]
    directory: str
    numbers: list[int]  # of the descriptors, in the new process
    parent: int
    session: bool
    group: int
    ignored: list[signal.Signals]


def start_warm() -> None:
    """From now on starts processes of ours as forks of a server, which ends with this process."""
    if not processes.LINUX:
        return
    line: list[socket.socket] = []
    _AT_START.update(os.environ)

    def start(*given: Any) -> int:
        if not line and _request(given) is not None:
            line.append(_open_server())
        return _start(line[0], *given) if line else int(_fork_exec(*given))

    _use(start)


def _open_server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    code = f"import sys; sys.path[0] = {str(TESTS)!r}; from support import warm; warm.main()"
    command = [sys.executable, "-c", code, str(theirs.fileno())]
    with theirs, patch.object(subprocess, "_fork_exec", _fork_exec):
        subprocess.Popen(
            command, env=_AT_START, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
    return ours


def _start(line: socket.socket, *given: Any) -> int:
    """Takes the place of `subprocess._fork_exec`: asks the server, if it can do this."""
    if (request := _request(given)) is None:
        return int(_fork_exec(*given))
    start, handles = request
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # so that a fork of a fork of the server becomes our child
    try:
        _send(line, pickle.dumps(start), handles)
        return int.from_bytes(_read(line, 8), "big")
    finally:
        _prctl(_PR_SET_CHILD_SUBREAPER, 0)


def _request(given: Sequence[Any]) -> tuple[Start, list[int]] | None:
    """What to ask the server for, and the descriptors that go with it; None if it cannot do it."""
    words, _, _, passed, cwd, variables, *rest = given
    stdin, _, _, stdout, _, stderr, _, errors, _, session, group = rest[:11]
    environment = dict(os.environ)
    if variables is not None:
        environment = dict(os.fsdecode(pair).split("=", 1) for pair in variables)
    arguments = _ours([os.fsdecode(word) for word in words], environment)
    usual = rest[11:-1] == [None, None, None, -1, None]  # user, groups, umask, function to call
    if arguments is None or not usual or not _same_imports(environment):
        return None
    kept = [fd for fd in passed if fd != errors]
    handles = [own if own >= 0 else fd for fd, own in enumerate((stdin, stdout, stderr))] + kept
    start = Start(
        arguments,
        environment,
        os.fsdecode(cwd or os.getcwd()),
        [0, 1, 2, *kept],
        os.getpid(),
        bool(session),
        group,
        [number for number in STOPS if signal.getsignal(number) is signal.SIG_IGN],
    )
    return start, handles


def _ours(words: Sequence[str], environment: dict[str, str]) -> list[str] | None:
    """A command's words after the interpreter if it is one of ours; `env`'s variables are set."""
    words = list(words)
    if words[0] == "env":
        while "=" in words[1]:
            name, _, value = words.pop(1).partition("=")
            environment[name] = value
        if words[1:5] != ["sh", "-c", 'exec "$@"', "sh"]:
            return None
        words = words[5:]
    if words[0] != sys.executable or len(words) < 2:
        return None
    if words[1] == "-B" and sys.dont_write_bytecode:  # which multiprocessing passes on
        words.pop(1)
    module = len(words) > 2 and words[1] == "-m" and words[2].startswith(OURS)
    module = module and words[2] not in COLD
    forks = len(words) > 2 and words[1] == "-c" and words[2].startswith(FORK_SERVER)
    return words[1:] if module or forks else None


def _same_imports(environment: dict[str, str]) -> bool:
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    if not {"", str(TESTS), str(TESTS.parent)}.issuperset(paths):
        return False
    wanted, has = (
        {k: v for k, v in found.items() if k.startswith(READ_AT_IMPORT) and k not in APPLIED}
        for found in (environment, _AT_START)
    )
    return wanted == has


def _send(line: socket.socket, data: bytes, handles: Sequence[int]) -> None:
    packed = array.array("i", handles)
    line.sendmsg([len(data).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])
    line.sendall(data)


def _read(line: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = line.recv(size - len(data))
        if not more:
            raise EOFError("the other end of the warm server's line is closed")
        data += more
    return data


def _serve(line: socket.socket) -> Start:
    """Answers requests for ever; returns only in a fork, as the process that was asked for."""
    while True:
        head, handles, *_ = socket.recv_fds(line, 8, 64)
        if len(head) < 8:
            os._exit(0)  # who asked has ended
        start: Start = pickle.loads(_read(line, int.from_bytes(head, "big")))
        ours, theirs = os.pipe()
        middle = os.fork()
        if middle == 0:
            child = os.fork()
            if child == 0:
                os.close(ours)
                os.close(theirs)
                line.close()
                own = _become(start, handles)
                if own is None:
                    return start
                line = own  # this is the server of the new process
                continue
            os.write(theirs, child.to_bytes(8, "big"))
            os._exit(0)
        os.close(theirs)
        for handle in handles:
            os.close(handle)
        pid = os.read(ours, 8)
        os.close(ours)
        os.waitpid(middle, 0)
        line.sendall(pid)


def _become(start: Start, handles: list[int]) -> socket.socket | None:
    """Makes this fork the process that was asked for, with a server of its own.

    Returns the line on which the server has to answer, in the server, and else None.
    """
    while os.getppid() != start.parent:
        time.sleep(0.0005)
    if start.session:
        os.setsid()
    if start.group >= 0:
        os.setpgid(0, start.group)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    owner = os.getpid()
    if os.fork() == 0:
        for handle in handles:
            os.close(handle)
        ours.close()
        _die_with(owner)
        return theirs
    theirs.close()
    lowest = 1 + max(start.numbers)
    moved = [_above(handle, lowest) for handle in handles]
    line = socket.socket(fileno=_above(ours.detach(), lowest))
    for number, handle in zip(start.numbers, moved, strict=True):
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(start.directory)
    os.environ.clear()
    os.environ.update(start.environment)
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN if number in start.ignored else signal.SIG_DFL)
    if signal.SIGINT not in start.ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _use(partial(_start, line))
    return None


def _use(start: Callable[..., int]) -> None:
    """Starts processes with `start`, but in forks of this one as ever: the server is not theirs."""
    _replace(start)
    os.register_at_fork(after_in_child=partial(_replace, _fork_exec))


def _replace(start: Callable[..., int]) -> None:
    _posixsubprocess.fork_exec = start  # for multiprocessing
    subprocess._fork_exec = start  # type: ignore[attr-defined]


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _above(handle: int, lowest: int) -> int:
    import fcntl

    moved = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, lowest)
    os.close(handle)
    return moved


def _die_with(owner: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner:
        os._exit(0)
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def _run(start: Start) -> None:
    """Runs the module or the code as Python does with these arguments."""
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(line_buffering=stream is sys.stderr or stream.isatty())
    for variable, parameter in MALLOPT.items():
        if variable in start.environment:
            ctypes.CDLL(None).mallopt(parameter, int(start.environment[variable]))
    added = start.environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in added if path and path not in sys.path]
    if start.arguments[0] == "-m":
        name = start.arguments[1]
        sys.argv = start.arguments[1:]
        sys.path[0] = start.directory
        sys.modules.pop(name, None)
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = ["-c", *start.arguments[2:]], ""
        exec(start.arguments[1], {"__name__": "__main__"})


def main() -> None:
    """The server: imports, then forks, with the descriptor of its line as the only argument."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _AT_START.update(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in PRELOAD:
            importlib.import_module(module)
    # elastic asks for the source lines of its callers, which looks through all imported modules
    for part in ("events", "rendezvous.dynamic_rendezvous", "utils.logging"):
        asks = sys.modules[f"torch.distributed.elastic.{part}"]
        asks.inspect = SimpleNamespace(stack=partial(inspect.stack, 0))  # type: ignore[attr-defined]
    gc.collect()
    gc.freeze()  # or each collection in a fork would go through all that was imported
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    _end(_serve(socket.socket(fileno=int(sys.argv[1]))))


def _end(start: Start) -> NoReturn:
    """Runs what was asked for and ends as Python does, but for freeing what was imported."""
    code: Any = 0
    try:
        _run(start)
    except SystemExit as ended:
        code = ended.code or 0
        if not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
            code = 1
    except BaseException as error:  # the interpreter's own handler of what nobody caught
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    processes.exit_now(code & 0xFF)
