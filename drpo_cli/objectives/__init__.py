"""One file per objective: the loss of each token and its gradient weight, nothing else."""
