"""What every rollout engine offers, and the numeric formats it works in."""
