"""Writes one file of up to 1 GiB."""

with open("large", "wb") as file:
    for _ in range(1024):
        file.write(b"\1" * (1 << 20))
