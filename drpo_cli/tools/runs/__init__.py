"""`drpo runs`: lists runs, and says how two of them differ."""
