"""All tenants' channels: making, keeping and ending them, and answering what comes over them."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from fildes.bus import grants
from fildes.bus.denials import Denials
from fildes.bus.introduce import Introducer
from fildes.bus.quota import CHANNELS, TENANT, Limits
from fildes.bus.tenant import Identity, Tenant
from fildes.daemon.peer import Empty, Peer, Refused
from fildes.daemon.store import Deposit, Store
from fildes.kernel import memfd, sockets
from fildes.kernel.fds import Fd, close_all, seqpacket_pair
from fildes.wire import bus as wire
from fildes.wire import drivers, log
from fildes.wire.catalogue import Rights
from fildes.wire.message import MAX_DATAGRAM
from fildes.wire.tenant import MAX_REQUEST

_PATIENCE: Final = 20.0  # seconds for a driver
_TELL_EVERY: Final = 1.0  # seconds between two refusals in a program's log

_encoder = msgspec.msgpack.Encoder()
_identity = msgspec.msgpack.Decoder(Identity)
_rights = msgspec.msgpack.Decoder(Rights)


class OpenName(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class Opened(msgspec.Struct):
    kind: str
    name: str


class GrantLine(msgspec.Struct):
    name: str
    kind: str
    to: str | None


class Inspected(msgspec.Struct):
    service: str
    release: str
    instance: str
    grants: list[GrantLine]


class Tenants:
    def __init__(self, peer: Peer, store: Store, introducer: Introducer, epoch: int, limits: Limits = TENANT) -> None:
        self.table = grants.Table()
        self.denials = Denials()
        self._peer, self._store, self._introducer = peer, store, introducer
        self._epoch, self._limits = epoch, limits
        self._by_key: dict[str, Tenant] = {}
        self._of_release: dict[str, set[str]] = {}  # release → keys
        self._rights: dict[str, Rights] = {}  # of releases that have channels; a release never changes
        self._last = 0

    def __len__(self) -> int:
        return len(self._by_key)

    # — channels —

    def make(self, asked: wire.Channel) -> Fd:
        """A new channel; the returned end is the instance's."""
        identity = Identity(asked.release, str(asked.instance), asked.service)
        if asked.grants is None:
            self._keep(asked.release, self.table.of_release(asked.release))
        else:
            self._keep(asked.release, Rights(asked.release, asked.service, "", asked.grants, []))
        ours, theirs = seqpacket_pair()
        try:
            sockets.refuse_rights(ours.fileno())
            # The instance's own queue is short: what waits there is kernel memory on nobody's account.
            sockets.limit_queue(theirs.fileno(), 2 * MAX_REQUEST)
            sockets.limit_queue(ours.fileno(), MAX_DATAGRAM)
            self._last += 1
            key = f"channel.{self._last}"
            # In the store before the other end leaves: a killed bus must not take the channel with it.
            self._store.deposit(key, _encoder.encode(identity), [ours])
        except BaseException:
            close_all((ours, theirs))
            raise
        self._adopt(key, identity, ours)
        self._end_oldest(asked.release)
        return theirs

    def _end_oldest(self, release: str) -> None:
        """A zygote sees every channel of its instances, and one that keeps them all would use up our descriptors."""
        keys = self._of_release[release]
        while len(keys) > CHANNELS:
            oldest = min(keys, key=lambda key: int(key.removeprefix("channel.")))
            self._by_key[oldest].end()
            self._drop(oldest)

    def restore(self, deposits: list[Deposit]) -> None:
        """Take over what a killed bus left. Consumes the deposits."""
        for key, blob, fds in deposits:
            try:
                if key.startswith("rights.") and len(fds) == 1:
                    rights = _rights.decode(memfd.read_sealed(fds[0].fileno()))
                    self._rights[rights.release] = rights
                elif key.startswith("channel.") and len(fds) == 1:
                    self._last = max(self._last, int(key.removeprefix("channel.")))
                    self._adopt(key, _identity.decode(blob), Fd(fds[0].take()))
                else:
                    raise ValueError("nothing that this bus knows")
            except (ValueError, msgspec.MsgspecError) as error:
                self._peer.loop.on_error(ValueError(f"the deposit {key!r} was dropped: {error}"))
                self._store.drop(key)
            finally:
                close_all(fds)
        for release in set(self._rights) - set(self._of_release):
            self._forget_rights(release)

    def start(self) -> None:
        """The rights are known: from now on requests are read."""
        for tenant in list(self._by_key.values()):
            tenant.start()

    def end(self, release: str) -> None:
        """Close every channel of `release`."""
        for key in list(self._of_release.get(release, ())):
            self._by_key[key].end()
            self._drop(key)

    def close(self) -> None:
        for tenant in self._by_key.values():
            tenant.close()

    def _adopt(self, key: str, identity: Identity, ours: Fd) -> None:
        tenant = Tenant(
            self._peer.loop,
            ours,
            identity,
            self._limits,
            on_request=self._on_request,
            on_gone=lambda _: self._drop(key),
        )
        self._by_key[key] = tenant
        self._of_release.setdefault(identity.release, set()).add(key)
        tenant.greet(self._epoch)
        if self.table.number is not None:
            tenant.start()

    def _drop(self, key: str) -> None:
        tenant = self._by_key.pop(key, None)
        if tenant is None:
            return
        self._store.drop(key)
        release = tenant.identity.release
        keys = self._of_release[release]
        keys.discard(key)
        if not keys:
            del self._of_release[release]
            self._forget_rights(release)

    def keep_rights(self) -> None:
        """The table has changed. Those of releases that have channels are needed after the catalogue has gone over to
        another release, as long as instances drain."""
        for release in self._of_release:
            self._keep(release, self.table.of_release(release))

    def _keep(self, release: str, rights: Rights | None) -> None:
        if rights is not None and release not in self._rights:
            self._rights[release] = rights
            with memfd.sealed("rights", _encoder.encode(rights)) as kept:
                self._store.deposit(f"rights.{release}", b"", [kept])

    def _forget_rights(self, release: str) -> None:
        if self._rights.pop(release, None) is not None:
            self._store.drop(f"rights.{release}")

    # — requests —

    def _on_request(self, tenant: Tenant, number: int, verb: str, body: msgspec.Raw) -> None:
        asked = verb
        try:
            if verb == "open":
                asked = msgspec.msgpack.decode(body, type=OpenName).name
                self._open(tenant, number, asked)
            elif verb == "inspect":
                msgspec.msgpack.decode(body, type=Empty)
                rights = self._rights_of(tenant)
                lines = [GrantLine(each.name, each.kind, each.to) for each in rights.grants]
                release, instance = tenant.identity.release, tenant.identity.instance
                tenant.reply(number, Inspected(rights.service, release, instance, lines))
            else:
                tenant.fail(number, "unknown-verb", f"the bus does not know {verb[:64]!r}; it answers open and inspect")
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            tenant.fail(number, "malformed", f"{verb}: {error}")
        except Refused as refused:
            self._deny(tenant, number, asked, refused)

    def _open(self, tenant: Tenant, number: int, name: str) -> None:
        if not tenant.may_take_fds():
            raise Refused("busy", "the descriptors of earlier answers were not received; receive them first")
        decision = grants.decide(self._rights_of(tenant), name, self.table)
        if isinstance(decision, grants.Refuse):
            raise Refused(*decision)
        if isinstance(decision, grants.Introduce):
            # The usual case without a task: nothing has to be waited for.
            end = self._introducer.now(tenant.identity.service, decision.service, decision.release)
            if end is not None:
                tenant.reply(number, Opened("connect", name), [end])
                return
        self._peer.loop.spawn(self._open_soon(tenant, number, name, decision))

    async def _open_soon(
        self, tenant: Tenant, number: int, name: str, decision: grants.Introduce | grants.AskDriver
    ) -> None:
        try:
            if isinstance(decision, grants.Introduce):
                caller = tenant.identity.service
                fds = [await self._introducer.soon(caller, decision.service, decision.release)]
            else:
                fds = await self._ask_driver(tenant, decision)
        except Refused as refused:
            self._deny(tenant, number, name, refused)
        except Exception as error:
            tenant.fail(number, "internal", "the bus failed at this; its own log says how")
            self._peer.loop.on_error(error)
        else:
            tenant.reply(number, Opened(decision.grant.kind, name), fds)

    async def _ask_driver(self, tenant: Tenant, decision: grants.AskDriver) -> list[Fd]:
        release, service = tenant.identity.release, tenant.identity.service
        kind, name = decision.grant.kind, decision.grant.name
        owner = self._rights_of(tenant).owner
        body = drivers.Open(kind, name, decision.options, release, service, owner)
        answer = await self._peer.ask(f"{decision.driver}.open", body, reply=_Anything, timeout=_PATIENCE)
        if not answer.fds:
            raise Refused("protocol", f"the {decision.driver} driver answered without a descriptor")
        return answer.fds

    def _rights_of(self, tenant: Tenant) -> Rights:
        release = tenant.identity.release
        rights = self._rights.get(release) or self.table.of_release(release)
        if rights is None:
            service = tenant.identity.service
            raise Refused("retired", f"the release {release} of {service} is not served any more; its rights are gone")
        return rights

    def _deny(self, tenant: Tenant, number: int, asked: str, refused: Refused) -> None:
        tenant.fail(number, refused.code, refused.text, refused.grant)
        identity = tenant.identity
        if refused.code == "busy":
            return
        self.denials.add(
            wire.Denial(
                when=time.time(),
                service=identity.service,
                release=identity.release,
                instance=identity.instance,
                asked=asked[:64],
                code=refused.code,
                text=refused.text,
                grant=refused.grant,
            )
        )
        now = self._peer.loop.time()
        if now - tenant.told_at > _TELL_EVERY:
            tenant.told_at = now
            self._peer.tell("log.append", log.Append(identity.service, f"refused: {refused.text}"))


class _Anything(msgspec.Struct):
    """A driver's body is for people: the descriptors are the answer."""
