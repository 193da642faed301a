"""What a run will take in memory, before it starts: `drpo plan`."""
