"""The catalogue's verbs: who may ask each, and what it answers (wire/catalogue.py says what they mean)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from fildes.capabilities.kinds import DECLARED
from fildes.catalogue.faults import BadState, NoSpace
from fildes.catalogue.policy import secret_of
from fildes.catalogue.publishing import Publishing
from fildes.catalogue.receiving import known
from fildes.daemon.peer import Asked, Refused
from fildes.kernel import memfd
from fildes.kernel.fds import Fd
from fildes.manifest import words
from fildes.manifest.problems import did_you_mean, quote
from fildes.wire import catalogue as wire
from fildes.wire.drivers import Open, Opened

MAX_SECRET: Final = 64 << 10

T = TypeVar("T")
Handler = Callable[[Asked[T]], Awaitable[Any]]


class Verbs:
    def __init__(self, publishing: Publishing, listening: list[str]) -> None:
        self.publishing, self._listening = publishing, listening
        self.db, self.objects = publishing.db, publishing.objects

    def register(self) -> None:
        """Answer from now on. The bus checks the senders as well (bus/routes.py)."""
        on = self._on
        on("subscribe", wire.Subscribe, self.subscribe, *wire.AUDIENCES)
        on("publish", wire.Publish, self.publishing.publish, "publish")
        on("known", wire.Known, self.known, "publish")
        on("sources", wire.Sources, self.sources, "publish")
        on("rollback", wire.Rollback, self.publishing.rollback, "debug")
        on("remove", wire.Remove, self.publishing.remove, "debug")
        on("pack", wire.Pack, self.pack, "orchestrator", "static")
        on("release", wire.FindRelease, self.release, "orchestrator")
        on("open", Open, self.open, "bus", "orchestrator")
        on("releases", wire.Releases, self.releases, "debug")
        on("services", wire.Services, self.services, "debug")
        on("secret_set", wire.SecretSet, self.secret_set, "debug")
        on("secret_rm", wire.SecretRemove, self.secret_rm, "debug")
        on("secret_list", wire.SecretList, self.secret_list, "debug")
        on("prune", wire.Prune, self.prune, "debug")
        on("copy", wire.Copy, self.copy, "debug")
        on("logins", wire.Logins, self.logins, "debug")
        on("login_add", wire.LoginAdd, self.login_add, "debug")
        on("login_rm", wire.LoginRemove, self.login_rm, "debug")
        on("policy_get", wire.PolicyGet, self.policy_get, "debug")
        on("policy_set", wire.PolicySet, self.policy_set, "debug")

    def _on(self, word: str, body: type[T], handler: Handler[T], *senders: str) -> None:
        async def answer(asked: Asked[T]) -> Any:
            if asked.sender not in senders:
                raise Refused("not-allowed", f"catalogue.{word} is not for {asked.sender or 'nobody'} to ask")
            try:
                return await handler(asked)
            except NoSpace as error:
                text = (
                    f"the disk that holds the state is full ({error}); nothing was changed, and what was served goes on"
                )
                raise Refused("disk-full", f"{text}. Make room there, or remove a service: fildes rm NAME") from error
            except BadState as error:
                text = f"the catalogue cannot do this: {error}; nothing was changed"
                raise Refused("state", text) from error

        self.publishing.peer.on(f"catalogue.{word}", body, answer)

    # — for the other daemons —

    async def subscribe(self, asked: Asked[wire.Subscribe]) -> tuple[wire.Snapshot, list[Fd]]:
        return wire.Snapshot(self.db.number()), [memfd.sealed_parts("catalogue", self.db.snapshot(asked.sender))]

    async def pack(self, asked: Asked[wire.Pack]) -> tuple[wire.Packed, list[Fd]]:
        found = self.db.find(asked.body.release)
        if found is None:
            raise Refused("not-found", f"there is no release {quote(asked.body.release)}")
        return wire.Packed(self.db.size(found.pack)), [self.objects.open(found.pack)]

    async def release(self, asked: Asked[wire.FindRelease]) -> wire.Release:
        found = self.db.find(asked.body.release)
        if found is None or found.state == "candidate":
            raise Refused("not-found", f"there is no release {quote(asked.body.release)}")
        return found.release("current" if found.state == "current" else "old")

    async def known(self, asked: Asked[wire.Known]) -> wire.Knowledge:
        body = asked.body
        return wire.Knowledge(known(self.db, self.objects, body.owner, body.bundle, body.abi))

    async def sources(self, asked: Asked[wire.Sources]) -> tuple[wire.Sourced, list[Fd]]:
        service, release = asked.body.service, asked.body.release
        found = self.db.current(service) if release is None else self.db.find(release)
        if found is None or found.service != service or found.state not in ("current", "old"):
            what = f"release {quote(release)}" if release is not None else "current release"
            raise Refused("not-found", f"{service} has no {what}; those there are: fildes releases {service}")
        told = wire.Sourced(found.id, found.owner, found.manifest, found.bundle, found.abi)
        return told, [self.objects.open(found.bundle)]

    async def open(self, asked: Asked[Open]) -> tuple[Opened, list[Fd]]:
        """A grant of kind secret, as the release was published with it."""
        found = self.db.find(asked.body.release)
        if found is None:
            raise Refused("not-found", f"there is no release {quote(asked.body.release)}")
        for grant in found.manifest.grants:
            if (grant.name, grant.kind) == (asked.body.name, "secret"):
                break
        else:
            line = f'[grants.{asked.body.name}]\nkind = "secret"'
            raise Refused("no-grant", f"{found.service} has no secret {quote(asked.body.name)}", line)
        name = secret_of(grant)
        value = self.db.secret(found.owner, found.service, name)
        if value is None:
            remedy = f"set it: fildes secret set {found.service} {name}"
            raise Refused("not-found", f"the secret {quote(name)} of {found.service} is not set; {remedy}")
        return Opened("secret"), [memfd.sealed("secret", value)]

    # — for operators and owners, by way of debug —

    async def releases(self, asked: Asked[wire.Releases]) -> wire.ReleaseList:
        service = asked.body.service
        self.publishing.owner_of(service, asked.body.owner)
        return wire.ReleaseList(service, self.db.releases(service))

    async def services(self, asked: Asked[wire.Services]) -> tuple[wire.ServiceCount, list[Fd]]:
        count, pieces = self.db.services(asked.body.owner, self._listening, coming=asked.body.coming)
        return wire.ServiceCount(count), [memfd.sealed_parts("services", pieces)]

    async def secret_set(self, asked: Asked[wire.SecretSet]) -> wire.Done:
        body = asked.body
        owner = self._secrets_of(body.service, body.owner)
        if not words.SECRET.fullmatch(body.name):
            raise Refused("malformed", f"{quote(body.name)} is not a secret's name: letters, digits, '_', '.' and '-'")
        (value,) = asked.take_fds(1)
        with value:
            try:
                data = memfd.read_sealed(value.fileno(), MAX_SECRET)
            except ValueError as error:
                raise Refused("malformed", f"the secret's value: {error}") from error
        if not data:
            raise Refused("malformed", "the secret's value is empty; to take it away: fildes secret rm")
        self.publishing.announce(self.db.set_secret(owner, body.service, body.name, data))
        return wire.Done()

    async def secret_rm(self, asked: Asked[wire.SecretRemove]) -> wire.Done:
        body = asked.body
        owner = self._secrets_of(body.service, body.owner)
        names = self.db.secrets(owner, body.service)
        if body.name not in names:
            hint = did_you_mean(body.name, names)
            text = f"{body.service} has no secret {quote(body.name)}"
            raise Refused("not-found", f"{text}; {hint}" if hint else text)
        self.publishing.announce(self.db.remove_secret(owner, body.service, body.name))
        return wire.Done()

    async def secret_list(self, asked: Asked[wire.SecretList]) -> wire.SecretNames:
        owner = self._secrets_of(asked.body.service, asked.body.owner)
        return wire.SecretNames(self.db.secrets(owner, asked.body.service))

    def _secrets_of(self, service: str, asker: str | None) -> str:
        """Whose secrets are meant. They may be set before the service is there: then they are the asker's."""
        if self.db.owner(service) is not None:
            return self.publishing.owner_of(service, asker)
        if asker is None or not words.OWNER.fullmatch(asker) or not words.SERVICE.fullmatch(service):
            raise Refused(
                "not-found", f"there is no service {quote(service)}; to set its secrets first, name its owner"
            )
        return asker

    async def prune(self, asked: Asked[wire.Prune]) -> wire.Pruned:
        body = asked.body
        if body.keep < 0:
            raise Refused("malformed", f"{body.keep} releases can't be kept")
        change, releases, size = self.db.prune(body.owner, body.keep, dry=body.dry)
        if not body.dry:
            self.publishing.announce(change)
        return wire.Pruned(releases, size)

    async def copy(self, asked: Asked[wire.Copy]) -> tuple[wire.Copied, list[Fd]]:
        fds = [memfd.sealed("catalogue", self.db.copy())]
        if asked.body.secrets:
            fds.append(memfd.sealed("secrets", msgspec.msgpack.encode(self.db.all_secrets())))
        return wire.Copied(self.db.uid_base), fds

    async def logins(self, asked: Asked[wire.Logins]) -> wire.LoginList:
        return wire.LoginList(self.db.logins(asked.body.uid))

    async def login_add(self, asked: Asked[wire.LoginAdd]) -> wire.Done:
        uid, owner = asked.body.uid, asked.body.owner
        if not words.OWNER.fullmatch(owner):
            raise Refused("malformed", f"{quote(owner)} cannot be an owner's name: letters, digits and '_.@:-'")
        if not 0 < uid < (1 << 32) - 1:
            raise Refused("malformed", f"{uid} is not the uid of somebody who could publish")
        self.db.set_login(uid, owner)
        return wire.Done()

    async def login_rm(self, asked: Asked[wire.LoginRemove]) -> wire.Done:
        if not self.db.remove_login(asked.body.uid):
            raise Refused("not-found", f"uid {asked.body.uid} stands for no owner; those who do: fildes owner")
        return wire.Done()

    async def policy_get(self, asked: Asked[wire.PolicyGet]) -> wire.Policy:
        return self.db.policy(asked.body.owner)

    async def policy_set(self, asked: Asked[wire.PolicySet]) -> wire.Done:
        owner, policy = asked.body.owner, asked.body.policy
        if not words.OWNER.fullmatch(owner):
            raise Refused("malformed", f"{quote(owner)} cannot be an owner's name")
        for suffix in policy.suffixes:
            try:
                good = suffix == "*" or words.host(suffix.removeprefix("*.")) == suffix.removeprefix("*.")
            except words.Wrong:
                good = False
            if not good:
                raise Refused("malformed", f'{quote(suffix)}: expected "*.example.org", "example.org" or "*"')
        for kind in policy.kinds:
            if kind not in DECLARED:
                hint = did_you_mean(kind, DECLARED) or f"known are {', '.join(sorted(DECLARED))}"
                raise Refused("malformed", f"unknown kind {quote(kind)}; {hint}")
        numbers = {name: value for name, value in msgspec.structs.asdict(policy).items() if not isinstance(value, list)}
        for name, number in numbers.items():
            if not 0 <= number < 1 << 62:
                raise Refused("malformed", f"{name}: {number} is not a quantity")
        if policy.static_bytes > wire.MOST_STATIC:
            raise Refused("malformed", f"static_bytes: a static site may have {wire.MOST_STATIC:,} bytes at the most")
        self.db.set_policy(owner, policy)
        return wire.Done()
