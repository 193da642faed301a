"""`drpo reward` and `drpo data`: look at the rewards and the data of a run before it starts."""
