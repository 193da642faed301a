"""What the verbs do that neither train nor report: one file or folder per verb."""
