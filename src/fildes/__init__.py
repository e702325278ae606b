"""Fildes: a program holds the file descriptors that it was granted, and nothing else."""

__version__ = "0.1.0"
