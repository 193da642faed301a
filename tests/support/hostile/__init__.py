"""Programs that a sandbox must survive, one file each.

Each has a bound of its own (forks, seconds, bytes), so that a sandbox that fails does not take the
machine down with it. What a program needs to know is on its stdin.
"""
