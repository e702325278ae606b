"""What is below a state directory, by version: how an older one becomes today's.

    1   catalogue/ log/ publish/ trees/
    2   data/ too: what services keep. A fildes of version 1 would not know of it, and lose it in a backup.

A step is done again when it was interrupted: the number is written when it is through.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

VERSION: Final = 2

Step = Callable[[int], None]  # of the open state directory (borrowed)


def _data(directory: int) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir("data", 0o700, dir_fd=directory)
    os.fsync(directory)


STEPS: Final[Mapping[int, Step]] = MappingProxyType({1: _data})  # from this version to the next
