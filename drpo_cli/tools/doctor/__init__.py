"""What `drpo doctor` does: looks at a machine before a run does."""
