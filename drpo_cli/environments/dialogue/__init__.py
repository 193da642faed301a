"""The tokens of an episode: the policy's as the engine gave them, observations tokenized once."""
