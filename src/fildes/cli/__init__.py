"""The command line: one file a verb.

A verb is a module here with `HELP: str`, `arguments(parser)` and `run(args) -> int` (the exit status); `fildes
some-verb` is `some_verb.py`. It imports what it needs inside `run`, or at its top if no other verb pays for that.
Every verb has `--state`; see `_shared.py`.
"""
