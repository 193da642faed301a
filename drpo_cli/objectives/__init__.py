"""Objectives, one file each: the loss of each token and its gradient weight, nothing else.

`log_ratio` and `token_loss` are for every objective, the user's own included.
"""

from drpo_cli.objectives._common import log_ratio, token_loss

__all__ = ["log_ratio", "token_loss"]
