"""What is asked about all that is stored: copies for a backup, which are the operators'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fildes.daemon.peer import Peer
from fildes.debug.door import Call, Handler
from fildes.kernel.fds import Fd
from fildes.wire import catalogue, storage

DATA_SECONDS: float = 1800.0

Reply = tuple[Any, Sequence[Fd]]


class AskCopy(msgspec.Struct, forbid_unknown_fields=True):
    secrets: bool = False


class Backups:
    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def table(self) -> dict[str, Handler]:
        return {"copy": self.copy, "copy-data": self.data}

    async def copy(self, call: Call) -> Reply:
        body: AskCopy = call.read(AskCopy)
        answer = await self._peer.ask("catalogue.copy", catalogue.Copy(body.secrets), reply=catalogue.Copied)
        return answer.body, answer.fds

    async def data(self, call: Call) -> Reply:
        message: storage.Backup = call.read(storage.Backup)
        files = call.take_fds(1)
        answer = await self._peer.ask("storage.backup", message, files, reply=storage.Copied, timeout=DATA_SECONDS)
        return answer.body, ()
