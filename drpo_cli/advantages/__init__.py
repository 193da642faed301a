"""Advantages, one file each: they turn the scores of each group into one number per response."""
