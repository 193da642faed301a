"""Leaves a deep tree of files and folders that nobody may read, and links out of it."""

import os

for _depth in range(300):
    os.mkdir("locked")
    os.symlink("/", "link")
    with open("file", "w") as file:
        file.write("x")
    os.chmod("file", 0)
    os.chdir("locked")
for _ in range(300):
    os.chdir("..")
    os.chmod("locked", 0)
