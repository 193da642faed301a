"""Calls the rewards on sampled responses, in processes of their own, and adds up the scores."""
