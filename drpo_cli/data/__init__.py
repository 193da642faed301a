"""Prompt sources, one file each; `pipeline` holds evaluation problems out and serves the rest.

A source has a docstring, `class Config(SourceSettings)` and `load(config) -> Sequence[Problem]`:
anything with `__len__` and `__getitem__`, so that rows may be made or read on demand.
"""
