"""What is asked about all that is stored: copies for a backup, which are the operators', and what can go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fildes.daemon.peer import Peer
from fildes.debug.door import Call, Handler
from fildes.kernel.fds import Fd
from fildes.wire import catalogue, publish, storage

DATA_SECONDS: float = 1800.0

Reply = tuple[Any, Sequence[Fd]]


class AskCopy(msgspec.Struct, forbid_unknown_fields=True):
    secrets: bool = False


class AskGc(msgspec.Struct, forbid_unknown_fields=True):
    owner: str | None = None
    keep: int = 0
    dry: bool = False


class Backups:
    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def table(self) -> dict[str, Handler]:
        return {"copy": self.copy, "copy-data": self.data, "gc": self.gc}

    async def gc(self, call: Call) -> Reply:
        body: AskGc = call.read(AskGc)
        question = catalogue.Prune(body.keep, body.owner, body.dry)
        pruned = (await self._peer.ask("catalogue.prune", question, reply=catalogue.Pruned)).body
        caches = 0
        if call.owner is None and not body.dry:  # they are shared by all owners' publishes
            cleaned = await self._peer.ask(
                "publish.clean", publish.Clean(), reply=publish.Cleaned, timeout=DATA_SECONDS
            )
            caches = cleaned.body.size
        return {"releases": pruned.releases, "size": pruned.size, "caches": caches}, ()

    async def copy(self, call: Call) -> Reply:
        body: AskCopy = call.read(AskCopy)
        answer = await self._peer.ask("catalogue.copy", catalogue.Copy(body.secrets), reply=catalogue.Copied)
        return answer.body, answer.fds

    async def data(self, call: Call) -> Reply:
        message: storage.Backup = call.read(storage.Backup)
        files = call.take_fds(1)
        answer = await self._peer.ask("storage.backup", message, files, reply=storage.Copied, timeout=DATA_SECONDS)
        return answer.body, ()
