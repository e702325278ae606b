"""The operator's door: it looks who asks, and passes the question on to whoever answers. It decides nothing else."""
