"""Trouble with the disk, told apart from trouble with what was asked."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class NoSpace(Exception):
    """The file system that holds the state has no room; nothing was changed."""


class BadState(Exception):
    """The database or a stored file cannot be read or written; nothing was changed."""


@contextmanager
def translated() -> Iterator[None]:
    """OSError and sqlite3.Error of the block as NoSpace or BadState. sqlite3.IntegrityError passes: it has meaning."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(str(error)) from error
        raise BadState(f"{error.strerror or error}: {error.filename or 'a stored file'}") from error
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise NoSpace(str(error)) from error
        raise BadState(f"the database: {error}") from error
