"""The operator's verbs about what services keep, which may outlive them: after `fildes rm` it is its owner's still."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from fildes.daemon.peer import Peer, Refused
from fildes.debug.access import DEFAULT_OWNER
from fildes.debug.answers import unsealed
from fildes.debug.door import Call, Handler
from fildes.kernel.fds import Fd
from fildes.wire import catalogue, publish, storage

LONG: Final = 1800.0  # seconds: a database may be large

Reply = tuple[Any, Sequence[Fd]]


class AskKept(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    owner: str | None = None


class AskDatabase(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    grant: str
    owner: str | None = None


class AskRemove(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    data: bool = False
    owner: str | None = None


class AskGc(msgspec.Struct, forbid_unknown_fields=True):
    """`data`: (owner, service) whose data goes, if they are services no more."""

    owner: str | None = None
    keep: int = 0
    dry: bool = False
    data: list[tuple[str, str]] = []


class _Named(Protocol):
    @property
    def service(self) -> str: ...
    @property
    def owner(self) -> str | None: ...


class Keeping:
    """Of an owner's question "owner" is that owner (owners.py); an operator may say it, and need not where it is
    clear: then it is whose the service is, or was."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def table(self) -> dict[str, Handler]:
        return {"db-list": self.look, "db-backup": self.backup, "rm": self.remove, "gc": self.gc}

    async def look(self, call: Call) -> Reply:
        body: AskKept = call.read(AskKept)
        owner = await self._whose(body)
        items = await self._items(owner, body.service)
        if not items and owner not in await self._owners(body.service):
            raise Refused("not-found", self._nobody(call, body.service))
        return storage.Listed(items), ()

    async def backup(self, call: Call) -> Reply:
        body: AskDatabase = call.read(AskDatabase)
        message = storage.Backup(await self._whose(body), body.service, body.grant)
        fds = call.take_fds(1)
        answer = await self._peer.ask("storage.backup", message, fds, reply=storage.Copied, timeout=LONG)
        return answer.body, ()

    async def remove(self, call: Call) -> Reply:
        """With `data` what it kept goes too, of a service that was removed before as well."""
        body: AskRemove = call.read(AskRemove)
        owner = await self._whose(body)
        removed = {"service": body.service, "releases": 0, "kept": 0}
        try:
            message = catalogue.Remove(body.service, owner)
            answer = await self._peer.ask("catalogue.remove", message, reply=catalogue.Removed)
            removed |= msgspec.to_builtins(answer.body)
        except Refused as refused:
            if refused.code not in ("not-found", "not-allowed"):
                raise
            if not await self._items(owner, body.service):
                raise Refused("not-found", self._nobody(call, body.service)) from refused
            if not body.data:
                what = f"{body.service} was removed before, and what it kept is still there"
                raise Refused("not-found", f"{what}; for good: fildes rm {body.service} --data") from refused
        if body.data:
            await self._discard(owner, body.service)
        else:
            removed["kept"] = len(await self._items(owner, body.service))
        return removed, ()

    async def gc(self, call: Call) -> Reply:
        body: AskGc = call.read(AskGc)
        question = catalogue.Prune(body.keep, body.owner, body.dry)
        pruned = (await self._peer.ask("catalogue.prune", question, reply=catalogue.Pruned)).body
        caches = 0
        if call.owner is None and not body.dry:  # they are shared by all owners' publishes
            cleaned = await self._peer.ask("publish.clean", publish.Clean(), reply=publish.Cleaned, timeout=LONG)
            caches = cleaned.body.size
        left = await self._left(body.owner)
        data = []
        for kept in left:
            gone = not body.dry and (kept.owner, kept.service) in body.data
            if gone:
                await self._discard(kept.owner, kept.service)
            data.append({**msgspec.to_builtins(kept), "gone": gone})
        return {"releases": pruned.releases, "size": pruned.size, "caches": caches, "data": data}, ()

    async def _left(self, owner: str | None) -> list[storage.Kept]:
        """What services that are there no more have left, in this order: whose first release is on its way is one."""
        kept = await self._kept(storage.AskKept(owner))
        there = {(info.owner, info.service) for info in await self._services(coming=True)}
        return [one for one in kept if (one.owner, one.service) not in there]

    async def _whose(self, body: _Named) -> str:
        if body.owner is not None:
            return body.owner
        owners = await self._owners(body.service)
        if not owners:
            owners = {kept.owner for kept in await self._kept(storage.AskKept(service=body.service))}
        if len(owners) > 1:
            names = " and ".join(sorted(owners))
            what = f"{body.service} is there no more, and {names} each had one that left something"
            raise Refused("malformed", f"{what}; say whose: --owner")
        return min(owners, default=DEFAULT_OWNER)

    async def _owners(self, service: str) -> set[str]:
        """Of the one who has it now; empty if nobody has."""
        return {info.owner for info in await self._services() if info.service == service}

    async def _services(self, *, coming: bool = False) -> list[catalogue.ServiceInfo]:
        question = catalogue.Services(coming=coming)
        answer = await self._peer.ask("catalogue.services", question, reply=catalogue.ServiceCount)
        infos: list[catalogue.ServiceInfo] = unsealed(answer.fds, list[catalogue.ServiceInfo])
        return infos

    async def _kept(self, question: storage.AskKept) -> list[storage.Kept]:
        answer = await self._peer.ask("storage.kept", question, reply=storage.KeptCount)
        kept: list[storage.Kept] = unsealed(answer.fds, list[storage.Kept])
        return kept

    async def _items(self, owner: str, service: str) -> list[storage.Item]:
        answer = await self._peer.ask("storage.list", storage.List(owner, service), reply=storage.Listed)
        return answer.body.items

    async def _discard(self, owner: str, service: str) -> None:
        message = storage.Remove(owner, service)
        await self._peer.ask("storage.remove", message, reply=storage.Removed, timeout=LONG)

    def _nobody(self, call: Call, service: str) -> str:
        who = "there is" if call.owner is None else f"{call.owner} has"
        return f"{who} no service {service[:64]!r}; those there are: fildes ps"
