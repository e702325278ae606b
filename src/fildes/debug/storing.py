"""The operator's verbs about what programs keep: databases are listed, copied while they are in use, and put back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from fildes.daemon.peer import Peer, Refused
from fildes.debug.door import Call, Handler
from fildes.kernel.fds import Fd
from fildes.wire import orchestrator, storage

LONG: float = 1800.0  # seconds: a database may be large

Reply = tuple[Any, Sequence[Fd]]


class AskDatabase(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    grant: str


class Storing:
    """`owner_of(service)`: whose it is, or would be. `quota_of(service, grant)`: of a database that the service has
    now; None of what it has no longer."""

    def __init__(
        self,
        peer: Peer,
        owner_of: Callable[[str], Awaitable[str]],
        quota_of: Callable[[str, str], Awaitable[int | None]],
    ) -> None:
        self._peer, self._owner_of, self._quota_of = peer, owner_of, quota_of

    def table(self) -> dict[str, Handler]:
        return {"db-restore": self.restore}

    async def restore(self, call: Call) -> Reply:
        """The service's instances end first: what they remember of the database is no longer true."""
        body: AskDatabase = call.read(AskDatabase)
        quota = await self._quota_of(body.service, body.grant)
        if quota is None and call.owner is not None:
            raise Refused("not-found", f"{body.service} has no database under the grant {body.grant!r}")
        message = storage.Restore(await self._whose(call, body.service), body.service, body.grant, quota or 0)
        fds = call.take_fds(1)
        await self._stop(body.service)
        answer = await self._peer.ask("storage.restore", message, fds, reply=storage.Copied, timeout=LONG)
        return answer.body, ()

    async def kept(self, service: str, owner: str) -> list[storage.Item]:
        answer = await self._peer.ask("storage.list", storage.List(owner, service), reply=storage.Listed)
        return answer.body.items

    async def _stop(self, service: str) -> None:
        try:
            await self._peer.ask(
                "orchestrator.stop", orchestrator.Stop(service), reply=orchestrator.Stopped, timeout=60.0
            )
        except Refused as refused:
            if refused.code != "not-found":  # its database may outlive a service
                raise

    async def _whose(self, call: Call, service: str) -> str:
        owner: str | None = getattr(call, "owner", None)  # who asks, where that is no operator
        return owner if owner is not None else await self._owner_of(service)
