"""`drpo compare`: runs a grid of specs over several seeds, and reports what differs."""
