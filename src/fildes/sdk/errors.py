"""What can go wrong when a program asks for a capability."""

from __future__ import annotations


class FildesError(Exception):
    """Everything that this package raises by itself."""


class Denied(FildesError):
    """The answer is no. `code` is for programs; `grant` has the lines of fildes.toml that would allow it, or None."""

    def __init__(self, code: str, text: str, grant: str | None = None) -> None:
        super().__init__(text if grant is None else f"{text}\n\n{grant}\n")
        self.code, self.text, self.grant = code, text, grant


class Unavailable(FildesError):
    """There is nobody to ask: the program does not run under Fildes, or the bus did not answer in time."""
