"""The driver of the kinds that need no system call of their own: clock and random."""
