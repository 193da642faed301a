"""Imports what its arguments name, as `package.module:name`."""

from __future__ import annotations

import importlib
import sys

from drpo_cli.tools.doctor.probes import say


def main() -> None:
    """Says each name once it is there; a library may find its own parts only when asked for."""
    for wanted in sys.argv[1:]:
        module, _, name = wanted.partition(":")
        found = importlib.import_module(module)
        if name:
            getattr(found, name)
        say(**{wanted: getattr(found, "__version__", None)})


if __name__ == "__main__":
    main()
