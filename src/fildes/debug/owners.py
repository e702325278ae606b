"""Owners at the operator's door: which uid stands for which, and that they reach what is theirs and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from fildes.daemon.peer import Peer, Refused
from fildes.debug.access import DEFAULT_OWNER, Share, share_of
from fildes.debug.door import Call, Handler
from fildes.kernel.fds import Fd
from fildes.wire import catalogue

Reply = tuple[Any, Sequence[Fd]]

_encoder: Final = msgspec.msgpack.Encoder()


class AskOwner(msgspec.Struct, forbid_unknown_fields=True):
    owner: str
    uid: int


class AskUid(msgspec.Struct, forbid_unknown_fields=True):
    uid: int


class AskPolicy(msgspec.Struct, forbid_unknown_fields=True):
    owner: str | None = None
    change: dict[str, Any] = {}


class Owners:
    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def of(self, uid: int) -> str | None:
        """The owner that this uid stands for. Raises Refused when the catalogue can't be asked."""
        answer = await self._peer.ask("catalogue.logins", catalogue.Logins(uid), reply=catalogue.LoginList)
        return answer.body.logins[0].owner if answer.body.logins else None

    def table(self) -> dict[str, Handler]:
        return {
            "owners": self.list,
            "owner-add": self.add,
            "owner-rm": self.remove,
            "whoami": self.whoami,
            "policy": self.policy,
        }

    def guarded(self, verbs: dict[str, Handler]) -> dict[str, Handler]:
        """The same verbs, for operators as they are, for owners as far as access.OWNERS goes."""
        return {verb: self._guard(verb, handler) for verb, handler in verbs.items()}

    def _guard(self, verb: str, handler: Handler) -> Handler:
        async def ask(call: Call) -> Reply:
            if call.owner is not None:
                await self._check(verb, call)
            return await handler(call)

        return ask

    async def _check(self, verb: str, call: Call) -> None:
        """Leave in the call what its owner may ask. Raises Refused."""
        owner = call.owner or ""
        body = call.read(dict[str, Any])
        share = share_of(verb, body)
        if share is None:
            raise Refused("not-allowed", f"{verb} is for operators of this node; you own {owner}'s services on it")
        if share in (Share.OWNER, Share.KEPT):
            if body.get("owner") not in (None, owner):
                raise Refused("not-allowed", f"you are {owner} here, and can't ask for {body['owner']}")
            call.body = msgspec.Raw(_encoder.encode(body | {"owner": owner}))
        elif share is Share.SERVICE:
            call.body = msgspec.Raw(_encoder.encode(body))  # nothing twice in it: what was looked at is what is asked
            try:
                question = catalogue.Releases(body["service"], owner)
                await self._peer.ask("catalogue.releases", question, reply=catalogue.ReleaseList)
            except Refused as refused:
                if refused.code not in ("not-found", "not-allowed"):
                    raise
                text = f"{owner} has no service {body['service'][:64]!r}; those there are: fildes ps"
                raise Refused("not-found", text) from refused

    # — verbs —

    async def whoami(self, call: Call) -> Reply:
        return {"owner": call.owner or DEFAULT_OWNER, "operator": call.owner is None}, ()

    async def list(self, call: Call) -> Reply:
        answer = await self._peer.ask("catalogue.logins", catalogue.Logins(), reply=catalogue.LoginList)
        return answer.body, ()

    async def add(self, call: Call) -> Reply:
        body: AskOwner = call.read(AskOwner)
        await self._peer.ask("catalogue.login_add", catalogue.LoginAdd(body.uid, body.owner), reply=catalogue.Done)
        return {}, ()

    async def remove(self, call: Call) -> Reply:
        body: AskUid = call.read(AskUid)
        await self._peer.ask("catalogue.login_rm", catalogue.LoginRemove(body.uid), reply=catalogue.Done)
        return {}, ()

    async def policy(self, call: Call) -> Reply:
        body: AskPolicy = call.read(AskPolicy)
        if call.owner is not None and (body.change or body.owner not in (None, call.owner)):
            raise Refused("not-allowed", f"policies are for operators; yours is shown by: fildes policy {call.owner}")
        owner = call.owner or body.owner or DEFAULT_OWNER
        answer = await self._peer.ask("catalogue.policy_get", catalogue.PolicyGet(owner), reply=catalogue.Policy)
        if not body.change:
            return answer.body, ()
        known = catalogue.Policy.__struct_fields__
        for key in body.change.keys() - set(known):
            raise Refused("malformed", f"a policy has no {key[:64]!r}; it has: {', '.join(known)}")
        try:
            policy = msgspec.convert(msgspec.to_builtins(answer.body) | body.change, catalogue.Policy)
        except msgspec.ValidationError as error:
            raise Refused("malformed", f"this is no policy: {error}; see: fildes policy {owner}") from error
        await self._peer.ask("catalogue.policy_set", catalogue.PolicySet(owner, policy), reply=catalogue.Done)
        return policy, ()
