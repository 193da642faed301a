"""Calls itself through C until the interpreter crashes."""

import sys

sys.setrecursionlimit(10**9)


def deeper(_: object = None) -> object:
    """Never returns."""
    return next(map(deeper, [None]))


deeper()
