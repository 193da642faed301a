"""Rules on trackers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib import util

from drpo_cli.plugins import Selected
from drpo_cli.settings import TrackerSettings
from drpo_cli.spec.model import Spec
from drpo_cli.spec.problems import Problem


def tracker_names_differ(spec: Spec) -> Iterator[Problem]:
    seen: Counter[str | None] = Counter()
    for index, tracker in enumerate(spec.tracker):
        name = tracker.config.name
        seen[name] += 1
        if name and seen[name] == 2:
            yield Problem(
                ("tracker", index, "name"),
                f"is {name!r}, like an earlier tracker's; give each [[tracker]] a name of its own",
                also=(("tracker", index, "type"),),
            )


def missing_client(tracker: Selected[TrackerSettings]) -> str | None:
    """How to install what a tracker sends with, where it is not there; it is not imported."""
    client = tracker.plugin.client
    found = util.find_spec(client) if client else None
    if client is None or (found is not None and found.origin is not None):
        return None  # without an origin it is but a folder of that name, such as a client leaves
    return f"is {tracker.type!r}, which is not installed; pip install 'drpo[{tracker.type}]'"


def clients_are_installed(spec: Spec) -> Iterator[Problem]:
    for index, tracker in enumerate(spec.tracker):
        if what := missing_client(tracker):
            yield Problem(("tracker", index, "type"), what)


RULES = (tracker_names_differ,)
DOUBTS = (clients_are_installed,)
