"""`drpo explain`: draws the gradient weight of objectives as a function of π."""
