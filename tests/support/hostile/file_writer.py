"""Writes the file it is told to."""

import sys

with open(sys.stdin.read(), "w") as file:
    file.write("was here")
