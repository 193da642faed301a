"""`drpo doctor`: checks a machine before a run uses it."""
