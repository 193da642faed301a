"""Writes the file named on stdin."""

import sys

with open(sys.stdin.read(), "w") as file:
    file.write("was here")
