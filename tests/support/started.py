"""Says how it was started, as JSON, and ends as it is told: `python -m support.started END FD`."""

import json
import os
import signal
import sys

ENDS = ("return", "code", "text", "raise", "interrupt", "kill")


def main(end: str, handle: int) -> None:
    """Prints what a process can see of its start, and leaves in one of the ways of ENDS."""
    os.write(handle, b"inherited")
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    seen = {
        "arguments": sys.argv[1:],
        "directory": os.getcwd(),
        "variable": os.environ.get("STARTED"),
        "parent": os.getppid(),
        "leads a session": os.getsid(0) == os.getpid(),
        "leads a group": os.getpgid(0) == os.getpid(),
        "ignores": [int(n) for n in stops if signal.getsignal(n) is signal.SIG_IGN],
        "reads": sys.stdin.read(),
        "warm": "torch" in sys.modules,
    }
    sys.stdout.write(json.dumps(seen))
    sys.stdout.flush()
    if end == "code":
        sys.exit(3)
    if end == "text":
        sys.exit("why")
    if end == "raise":
        raise ValueError("wrong")
    if end == "interrupt":
        raise KeyboardInterrupt
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
