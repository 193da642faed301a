"""The bench: what drpo costs, as ratios within one run. `make bench` runs it; see README.md."""
