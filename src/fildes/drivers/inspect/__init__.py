"""The inspect driver: reads the descriptor tables of other processes, and can do nothing else."""
