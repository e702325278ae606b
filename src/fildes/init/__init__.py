"""init: forks the fixed set of daemons, keeps what must outlive them, starts them again when they die.

Two processes. The keeper (`keeper.py`) is what `fildes up` becomes: it stays outside, holds the lock of the state
directory and the user's terminal, forwards signals, and checks at the end that nothing is left. init itself
(`boot.py`, `supervisor.py`) is PID 1 of namespaces of its own where it may have them: its death ends everything.
It imports only this package, `kernel` and `wire.store`, and parses nothing from outside but the store's frames.
"""
