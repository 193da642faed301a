"""Keeps this process, and all that it starts, to a few folders, with Linux's Landlock.

It needs no privileges, and works in containers that forbid namespaces. Standard library only.
https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls, with one number on all architectures
_VERSION, _BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_ALL_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}  # rights to files: that many bits; 16 from 5 on
_NETWORK_FROM, SIGNALS_FROM = 4, 6
_READ, _OF_FILES = _EXECUTE | _READ_FILE | _READ_FOLDER, _EXECUTE | _WRITE_FILE | _READ_FILE


def version() -> int:
    """The version of Landlock; 0 where there is none. Signals can be refused from 6 on."""
    if sys.platform != "linux":
        return 0
    found: int = ctypes.CDLL(None).syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)
    return max(0, found)


def restrict(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Leaves only these files and folders, and takes TCP, and signals to other processes.

    Call it after `no new privileges` is set. Raises OSError.
    """
    found = version()
    rights = (1 << _ALL_OF_VERSION.get(found, 16)) - 1
    numbers = [rights]
    if found >= _NETWORK_FROM:
        numbers.append(0b11)  # to bind and to connect
    if found >= SIGNALS_FROM:
        numbers.append(0b11)  # abstract Unix sockets, and signals
    attributes = struct.pack(f"{len(numbers)}Q", *numbers)
    rules = _call(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    for paths, granted in ((readable, _READ), (writable, rights)):
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                _allow(rules, path, granted & rights)
    _call(_RESTRICT, rules, 0)
    os.close(rules)


def _allow(rules: int, path: str, granted: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            granted &= _OF_FILES | _TRUNCATE
        _call(_ADD, rules, _BENEATH, struct.pack("=Qi", granted, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    given = library.syscall(number, *arguments)
    if given < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return int(given)
