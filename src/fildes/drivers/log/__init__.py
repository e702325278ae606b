"""The log driver: every program's standard output and error, in bounded files."""
