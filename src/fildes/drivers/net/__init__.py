"""The process that reaches the network for those who were granted a host and a port, and nobody else."""
