"""One file that holds a tree: a release, or the interpreter and its library. See `format.py`."""
