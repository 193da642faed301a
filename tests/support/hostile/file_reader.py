"""Reads the file it is told to."""

import sys

with open(sys.stdin.read()) as file:
    sys.stdout.write(file.read())
