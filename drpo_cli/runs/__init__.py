"""What `drpo runs` does: finds runs, and tells what became of each and how two differ."""
