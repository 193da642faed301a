"""`drpo compare`: a grid of ordinary runs, and what they come to over seeds."""
