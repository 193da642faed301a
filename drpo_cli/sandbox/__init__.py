"""Runs an untrusted Python program under limits, and ends it with everything that it started.

`run.py` is what callers use: limits, results, and the choice of a backend. It starts
`supervisor.py`, the process outside the sandbox, which starts `limits.py`, the first process
inside: with `bubblewrap` in a file system of its own, or with `plain` in that of the machine.
`asserts.py` is the program that the reward `python_tests` runs in there.
"""
