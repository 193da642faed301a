"""Calls a port of this machine in every way; prints which calls succeeded."""

import socket
import sys

port = int(sys.stdin.read())
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            knock = socket.socket(family, kind)
            knock.settimeout(5)
            knock.connect((host, port))
            knock.send(b"secret")
            sys.stdout.write(f"{family.name} {kind.name}\n")
        except OSError as error:
            sys.stderr.write(f"{error}\n")
