"""What holds of releases over restarts of everything: stopped or frozen by an operator; done, by itself.

A file of its own, {release: [wish, …]}. A wish is a release's: the next publish, a rollback and `fildes rm` end it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container
from typing import Final

STOPPED, FROZEN, DONE = "stopped", "frozen", "done"
_KNOWN: Final = frozenset({STOPPED, FROZEN, DONE})


class Wishes:
    """`on_error(error)` is told of a file that can't be read: then there are no wishes."""

    def __init__(self, path: str, on_error: Callable[[BaseException], object]) -> None:
        self._path = path
        self._held: dict[str, set[str]] = {}
        try:
            with open(path, encoding="utf-8") as file:
                read = json.load(file)
            self._held = {str(release): set(words) & _KNOWN for release, words in read.items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError) as error:
            on_error(error)

    def __contains__(self, release: str) -> bool:
        return release in self._held

    def has(self, release: str, wish: str) -> bool:
        return wish in self._held.get(release, ())

    def set(self, release: str, wish: str, holds: bool) -> None:
        """It is on the disk when this returns. Raises OSError; it holds in this process all the same."""
        if self.has(release, wish) == holds:
            return
        words = self._held.setdefault(release, set())
        if holds:
            words.add(wish)
        else:
            words.discard(wish)
            if not words:
                del self._held[release]
        self._write()

    def forget(self, release: str) -> None:
        """It is not current any more. Raises OSError."""
        if self._held.pop(release, None) is not None:
            self._write()

    def keep(self, releases: Container[str]) -> None:
        """Forget those of other releases."""
        gone = [release for release in self._held if release not in releases]
        for release in gone:
            del self._held[release]
        if gone:
            self._write()

    def _write(self) -> None:
        partial = f"{self._path}.new"
        with open(partial, "w", encoding="utf-8") as file:
            json.dump({release: sorted(words) for release, words in self._held.items()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(partial, self._path)
