"""What a run shows while it goes on: drawn from the files of its folder, by whoever looks."""
