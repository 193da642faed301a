"""A run on disk: its folder, records, state, alerts, and how two runs differ."""
