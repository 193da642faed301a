"""Takes memory and writes on it, 32 MiB at a time, up to 2 GiB."""

held = [b"\1" * (32 << 20) for _ in range(64)]
