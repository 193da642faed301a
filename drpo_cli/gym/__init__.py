"""What the data source, the reward and the environment `reasoning_gym` have in common."""
