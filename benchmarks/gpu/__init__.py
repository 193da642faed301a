"""The first ten minutes on a GPU: `make gpu` runs every step here; docs/gpu.md says how."""
