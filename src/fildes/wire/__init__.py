"""The messages and their frames. No I/O."""
