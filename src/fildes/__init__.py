"""Fildes: a program holds the file descriptors that it was granted, and nothing else."""
