"""Reads the file named on stdin."""

import sys

with open(sys.stdin.read()) as file:
    sys.stdout.write(file.read())
