"""`[grants.clock]`: wall time and durations of a millisecond."""

from __future__ import annotations

from typing import Final

from fildes.capabilities.kind import Kind

KIND: Final = Kind(
    name="clock",
    driver="shared",
    summary="the wall time, and ticks of a millisecond",
    revocation="the instance ends: a timer that was handed out ticks on",
    at_start=True,
)
