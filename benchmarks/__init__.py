"""What drpo costs, as ratios inside one run: `make bench`. README.md says how."""
