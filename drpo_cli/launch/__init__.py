"""Starts, watches and ends the processes of a run.

`launcher` is `drpo train` itself, `worker` one rank, `monitor` the thread that shows the run while
its ranks train, `failures` the reasons that ranks record, `tracking` and `follower` the trackers.
"""

from __future__ import annotations

from pathlib import Path

from drpo_cli.runs.folder import RunFolder


def launch_log(folder: RunFolder) -> Path:
    """What the launcher, torch elastic, and processes that have no log of their own yet print."""
    return folder.path / "logs" / "launch.log"
