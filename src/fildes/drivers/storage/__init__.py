"""The storage driver: see __main__.py."""
