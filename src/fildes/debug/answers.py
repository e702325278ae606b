"""What other daemons answer in a sealed memfd."""

from __future__ import annotations

from typing import Any

import msgspec

from fildes.daemon.peer import Refused
from fildes.kernel import memfd
from fildes.kernel.fds import Fd, close_all


def unsealed(fds: list[Fd], kind: Any) -> Any:
    """The one of them read as `kind`; all are closed. Raises Refused."""
    try:
        return msgspec.msgpack.decode(memfd.read_sealed(fds[0].fileno()), type=kind)
    except (IndexError, ValueError) as error:
        raise Refused("internal", f"an answer of another daemon could not be read: {error}") from error
    finally:
        close_all(fds)
