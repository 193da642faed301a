"""Trackers: where metrics go besides metrics.jsonl, one file each, each in a process of its own."""
