"""One file per advantage: from the scores of each group to one number per response."""
