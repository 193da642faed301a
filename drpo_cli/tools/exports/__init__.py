"""Logs of `drpo eval` in the formats of other evaluation tools, one format per file."""
