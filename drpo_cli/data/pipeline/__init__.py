"""From problems to prompts: mixes sources, holds problems out, and serves batches."""
