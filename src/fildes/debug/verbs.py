"""The operator's verbs: each is a question or two to the daemons that know."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec

from fildes.capabilities.sqlite import grant as sqlite
from fildes.daemon.abi import foreign, sentence
from fildes.daemon.peer import Peer, Refused
from fildes.daemon.store import Store
from fildes.debug.access import DEFAULT_OWNER
from fildes.debug.answers import unsealed
from fildes.debug.door import Call, Handler
from fildes.debug.explain import reasons
from fildes.debug.storing import Storing
from fildes.kernel import memfd, process
from fildes.kernel.fds import Fd, close_all
from fildes.wire import bus, catalogue, drivers, log, orchestrator
from fildes.wire.debug import MAX_FDS
from fildes.wire.publish import Cancel, Lock, Progress, Publish, Repack

LONG: float = 86400.0  # seconds: a publish waits for others, resolves, installs, warms, runs commands
MAX_PIDFDS: int = MAX_FDS - 8

Reply = tuple[Any, Sequence[Fd]]


class OfService(msgspec.Struct, forbid_unknown_fields=True):
    service: str


class AskPs(msgspec.Struct, forbid_unknown_fields=True):
    service: str = ""
    all: bool = False
    quiet: int | None = None


class AskPublish(msgspec.Struct, forbid_unknown_fields=True):
    name: str | None = None
    owner: str | None = None
    upgrade: bool = False
    lock: bool = False
    folder: str = ""


class AskRun(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    arguments: list[str]
    release: str | None = None
    terminal: str = ""


class AskRollback(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    release: str | None = None


class AskSecret(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    name: str = ""
    owner: str | None = None


class AskExplain(msgspec.Struct, forbid_unknown_fields=True):
    service: str | None = None


class Verbs:
    def __init__(self, peer: Peer, store: Store) -> None:
        self._peer, self._store = peer, store
        self._tickets: dict[str, Call] = {}
        self._storing = Storing(peer, self._owner, self._quota)
        peer.on_event("debug.progress", Progress, lambda asked: self._progress(asked.body))

    def table(self) -> dict[str, Handler]:
        return self._storing.table() | {
            "ps": self.ps,
            "publish": self.publish,
            "repack": self.repack,
            "foreign": self.foreign,
            "lock": self.lock,
            "logs": self.logs,
            "caps": self.caps,
            "releases": self.releases,
            "rollback": self.rollback,
            "stop": self.stop,
            "start": self.start,
            "freeze": self.freeze,
            "thaw": self.thaw,
            "run": self.run,
            "secret-set": self.secret_set,
            "secret-list": self.secret_list,
            "secret-rm": self.secret_rm,
            "explain": self.explain,
            "plan": self.plan,
        }

    # — publishing —

    async def publish(self, call: Call) -> Reply:
        body: AskPublish = call.read(AskPublish)
        ticket = self._ticket(call)
        owner = body.owner or DEFAULT_OWNER
        message = Publish(ticket, owner, body.name, body.upgrade, body.lock, body.folder)
        try:
            answer = await self._peer.ask(
                "publish.publish", message, call.take_fds(1), reply=catalogue.Published, timeout=LONG
            )
        finally:
            del self._tickets[ticket]
        return answer.body, ()

    def _ticket(self, call: Call) -> str:
        """Under which the progress of a publish comes to `call`; who took it puts it back."""
        ticket = os.urandom(8).hex()
        self._tickets[ticket] = call

        def gone() -> None:
            for daemon in ("publish", "orchestrator"):
                self._peer.tell(f"{daemon}.cancel", Cancel(ticket))

        call.on_gone = gone
        return ticket

    async def repack(self, call: Call) -> Reply:
        body: AskRollback = call.read(AskRollback)
        ticket = self._ticket(call)
        try:
            message = Repack(ticket, body.service, body.release)
            answer = await self._peer.ask("publish.repack", message, reply=catalogue.Published, timeout=LONG)
        finally:
            del self._tickets[ticket]
        return answer.body, ()

    async def foreign(self, call: Call) -> Reply:
        return {"services": [info.service for info in await self._infos() if foreign(info.abi)]}, ()

    async def lock(self, call: Call) -> Reply:
        body: OfService = call.read(OfService)
        answer = await self._peer.ask("publish.lock", Lock(body.service), reply=Lock)
        return {}, answer.fds

    def _progress(self, progress: Progress) -> None:
        call = self._tickets.get(progress.ticket)
        if call is not None:
            call.note(progress.phase, progress.text, progress.ms)

    async def releases(self, call: Call) -> Reply:
        body: OfService = call.read(OfService)
        answer = await self._peer.ask(
            "catalogue.releases", catalogue.Releases(body.service), reply=catalogue.ReleaseList
        )
        return answer.body, ()

    async def rollback(self, call: Call) -> Reply:
        body: AskRollback = call.read(AskRollback)
        ticket = self._ticket(call)
        try:
            message = catalogue.Rollback(body.service, body.release, ticket=ticket)
            answer = await self._peer.ask("catalogue.rollback", message, reply=catalogue.Published, timeout=LONG)
        finally:
            del self._tickets[ticket]
        return answer.body, ()

    # — what runs —

    async def ps(self, call: Call) -> Reply:
        body: AskPs = call.read(AskPs)
        if body.all and call.owner is not None:
            raise Refused("not-allowed", "the node's own processes are shown to operators; leave --all out")
        infos = {info.service: info for info in await self._infos(call.owner)}
        listed = await self._states(body.service, call.owner, body.quiet)
        services = [msgspec.to_builtins(state) for state in listed.services]
        if body.service and not services:
            raise Refused("not-found", f"there is no service {body.service!r}; those there are: fildes ps")
        pidfds: list[Fd] = []
        try:
            for service in services:
                info = infos.get(service["service"])
                service["urls"] = info.urls if info is not None else []
                if info is not None and foreign(info.abi):
                    service["state"], service["note"] = "foreign", sentence(info.service, info.abi)
                del service["held"]
                for running in [*service["instances"], *service["commands"]]:
                    del running["held"]
                    running["pid"] = _pidfd(running["pid"], pidfds)
                service["zygote"] = _pidfd(service["zygote"], pidfds)
                if body.service and info is not None:
                    kept = await self._storing.kept(info.service, info.owner)
                    service["kept"] = [msgspec.to_builtins(item) for item in kept]
            daemons = await self._daemons(pidfds) if body.all else []
        except BaseException:
            close_all(pidfds)
            raise
        return {"services": services, "more": listed.more, "daemons": daemons, "pidfds": len(pidfds)}, pidfds

    async def _states(self, service: str, owner: str | None = None, quiet: int | None = None) -> orchestrator.PsReply:
        answer = await self._peer.ask("orchestrator.ps", orchestrator.Ps(service, owner, quiet))
        reply: orchestrator.PsReply = unsealed(answer.fds, orchestrator.PsReply)
        return reply

    async def _infos(self, owner: str | None = None) -> list[catalogue.ServiceInfo]:
        answer = await self._peer.ask("catalogue.services", catalogue.Services(owner), reply=catalogue.ServiceCount)
        infos: list[catalogue.ServiceInfo] = unsealed(answer.fds, list[catalogue.ServiceInfo])
        return infos

    async def _daemons(self, pidfds: list[Fd]) -> list[dict[str, Any]]:
        found = []
        for status in await self._store.daemons():
            number = -1
            if status.pidfd is not None:
                number = len(pidfds)
                pidfds.append(status.pidfd)
            found.append({"name": status.name, "state": status.state, "restarts": status.restarts, "pid": number})
        return found

    async def stop(self, call: Call) -> Reply:
        body: OfService = call.read(OfService)
        answer = await self._peer.ask(
            "orchestrator.stop", orchestrator.Stop(body.service), reply=orchestrator.Stopped, timeout=60.0
        )
        return answer.body, ()

    async def run(self, call: Call) -> Reply:
        """The answer comes when it was started; how it ends, the lease tells, whatever becomes of us."""
        body: AskRun = call.read(AskRun)
        message = orchestrator.Run(body.service, body.arguments, body.release, body.terminal)
        answer = await self._peer.ask(
            "orchestrator.run", message, call.take_fds(4), reply=orchestrator.Running, timeout=LONG
        )
        return answer.body, ()

    async def start(self, call: Call) -> Reply:
        body: OfService = call.read(OfService)
        message = orchestrator.Start(body.service)
        answer = await self._peer.ask("orchestrator.start", message, reply=orchestrator.Started, timeout=LONG)
        return answer.body, ()

    async def freeze(self, call: Call) -> Reply:
        body: OfService = call.read(OfService)
        message = orchestrator.Freeze(body.service)
        answer = await self._peer.ask("orchestrator.freeze", message, reply=orchestrator.Frozen, timeout=LONG)
        return answer.body, ()

    async def thaw(self, call: Call) -> Reply:
        body: OfService = call.read(OfService)
        message = orchestrator.Thaw(body.service)
        answer = await self._peer.ask("orchestrator.thaw", message, reply=orchestrator.Thawed)
        return answer.body, ()

    async def logs(self, call: Call) -> Reply:
        body: log.Read = call.read(log.Read)
        body.owner = call.owner
        # The log driver knows names of files, not who exists: a misspelt name would be a silent wait.
        try:
            await self._peer.ask("catalogue.releases", catalogue.Releases(body.service), reply=catalogue.ReleaseList)
        except Refused as refused:
            if refused.code != "not-found":
                raise
            body.known = False  # a first publish that failed left its reason in the log, and no service
        answer = await self._peer.ask("log.read", body)
        return {}, answer.fds

    async def caps(self, call: Call) -> Reply:
        """The live table of every process of a service, each descriptor with its reason."""
        body: OfService = call.read(OfService)
        states = (await self._states(body.service)).services
        if not states:
            raise Refused("not-found", f"there is no service {body.service!r}; those there are: fildes ps")
        (state,) = states
        running = [(f"instance {instance.id}", instance.pid, instance.held) for instance in state.instances]
        running += [(f"command {command.id}", command.pid, command.held) for command in state.commands]
        if state.zygote is not None:
            running.append(("zygote", state.zygote, state.held))
        tables = await self._tables([pid for _, pid, _ in running if pid > 0])
        pidfds: list[Fd] = []
        processes = []
        for name, pid, given in running:
            table = tables.get(pid, drivers.FdTable(pid, [], "the process has ended"))
            fds = [
                {"fd": entry.fd, "target": entry.target, "kind": entry.kind, "why": why}
                for entry, why in zip(table.fds, reasons(table.fds, given), strict=True)
            ]
            processes.append({"name": name, "pid": _pidfd(pid, pidfds), "error": table.error, "fds": fds})
        value = {
            "service": state.service,
            "state": state.state,
            "runtime": state.runtime,
            "grants": [msgspec.to_builtins(grant) for grant in state.grants],
            "processes": processes,
            "pidfds": len(pidfds),
        }
        return value, pidfds

    async def _tables(self, pids: list[int]) -> dict[int, drivers.FdTable]:
        if not pids:
            return {}
        answer = await self._peer.ask("inspect.fds", drivers.Inspect(pids), reply=drivers.Inspected)
        with answer.fds[0] as sealed:
            return {table.pid: table for table in drivers.read_tables(memfd.read_sealed(sealed.fileno()))}

    # — secrets, refusals —

    async def secret_set(self, call: Call) -> Reply:
        body: AskSecret = call.read(AskSecret)
        owner = body.owner or await self._owner(body.service)
        message = catalogue.SecretSet(body.service, body.name, owner)
        await self._peer.ask("catalogue.secret_set", message, call.take_fds(1), reply=catalogue.Done)
        return {}, ()

    async def secret_list(self, call: Call) -> Reply:
        body: AskSecret = call.read(AskSecret)
        owner = body.owner or await self._owner(body.service)
        answer = await self._peer.ask(
            "catalogue.secret_list", catalogue.SecretList(body.service, owner), reply=catalogue.SecretNames
        )
        return answer.body, ()

    async def secret_rm(self, call: Call) -> Reply:
        body: AskSecret = call.read(AskSecret)
        owner = body.owner or await self._owner(body.service)
        message = catalogue.SecretRemove(body.service, body.name, owner)
        await self._peer.ask("catalogue.secret_rm", message, reply=catalogue.Done)
        return {}, ()

    async def _owner(self, service: str) -> str:
        """Whose the service is; of one that is not there yet, whose it would be if it were published now."""
        owners = [info.owner for info in await self._infos() if info.service == service]
        return owners[0] if owners else DEFAULT_OWNER

    async def _quota(self, service: str, grant: str) -> int | None:
        """Bytes that a database of a service may have; None if it has none of that name now."""
        for state in (await self._states(service)).services:
            for granted in state.grants:
                if (granted.name, granted.kind) == (grant, "sqlite") and "of" not in granted.options:
                    return sqlite.quota_of(granted.options)
        return None

    async def explain(self, call: Call) -> Reply:
        body: AskExplain = call.read(AskExplain)
        answer = await self._peer.ask("bus.denials", bus.AskDenials(body.service), reply=bus.Denials)
        if body.service and not answer.body.denials:  # a name that nobody has was refused nothing either
            await self._peer.ask("catalogue.releases", catalogue.Releases(body.service), reply=catalogue.ReleaseList)
        return answer.body, ()

    async def plan(self, call: Call) -> Reply:
        body: OfService = call.read(OfService)
        answer = await self._peer.ask(
            "orchestrator.plan", orchestrator.Plan(body.service), reply=orchestrator.PlanReply
        )
        return answer.body, ()


def _pidfd(pid: int | None, pidfds: list[Fd]) -> int | None:
    """The place among `pidfds` of a new pidfd for `pid`; −1 if it has ended, or there are too many."""
    if pid is None:
        return None
    if pid <= 0 or len(pidfds) >= MAX_PIDFDS:
        return -1
    try:
        pidfds.append(process.pidfd_open(pid))
    except OSError:
        return -1
    return len(pidfds) - 1
