"""The interface of rollout engines, and the number formats they compute in."""
