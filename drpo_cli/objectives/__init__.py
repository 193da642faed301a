"""Objectives, one file each: the loss of each token and its gradient weight, nothing else."""
