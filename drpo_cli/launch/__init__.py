"""Starts, watches and ends the processes of a run.

`launcher` is `drpo train` itself, `worker` one rank, `monitor` the thread that shows the run while
its ranks train, `failures` the reasons that ranks record, `tracking` and `follower` the trackers.
On several machines, `place` says which one this is, `meeting` connects their launchers, and `nodes`
has them agree.
"""

from __future__ import annotations

from pathlib import Path

from drpo_cli.runs.folder import RunFolder


def launch_log(folder: RunFolder, node: int = 0) -> Path:
    """What a node's launcher, torch elastic, and processes without a log of their own yet print."""
    return folder.path / "logs" / (f"launch-{node}.log" if node else "launch.log")
