"""Runs an untrusted Python program with limits, and kills it at its deadline."""
