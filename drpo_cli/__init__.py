"""drpo: post-train language models with Divergence Regularized Policy Optimization."""

__version__ = "0.1.0"
