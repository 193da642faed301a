"""What can be looked at before a run: rewards on samples (`reward test`), prompts (`data show`)."""
