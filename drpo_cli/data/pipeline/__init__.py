"""From problems to prompts: mixes sources, holds problems out for evaluation, and serves batches."""
