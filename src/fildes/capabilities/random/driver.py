"""Randomness to hand out: the kernel's device, a description of its own for each holder.

A shared description has shared flags (O_NONBLOCK, F_SETFL), through which two tenants could talk.
"""

from __future__ import annotations

import os

from fildes.kernel.fds import Fd


def open_random() -> Fd:
    return Fd.open("/dev/urandom", os.O_RDONLY)
