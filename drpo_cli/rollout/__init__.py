"""Rollout engines, one file each: they sample responses and report log μ of every sampled token.

A file has `class Config(RolloutSettings)` and `class Engine`, as `engine/protocol.py` describes it.
Device-specific choices stay in the engine's own file.
"""
