"""`drpo explain`: what an objective does to a token's gradient, drawn from the objective itself."""
