"""The algorithm: `loop` names every stage of a step; each stage is a file beside it."""
