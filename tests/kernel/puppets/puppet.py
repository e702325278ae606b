"""Small real daemons that do what a test tells them: the tables for tests of init.

The daemon "door" holds the control socket and the far end of everybody's channel. A test sends it one datagram of JSON
{"to": daemon, "do": …} with descriptors; it goes on to that daemon's channel, and the answer comes back the same way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Store
from fildes.init.table import Daemon
from fildes.kernel.fds import Fd, close_all, receive_with_fds, send_with_fds, set_blocking
from fildes.kernel.loop import EPOLLIN, Loop
from fildes.wire import store as wire

TABLE = (
    Daemon("alpha", "puppet", 1, directory=("state", "alpha"), deposits=2000, deposited_fds=4000),
    Daemon("beta", "puppet", 2, deposits=4, deposited_fds=6, keep=frozenset({19})),
    Daemon("listener", "puppet", None, hears_exits=True),
    Daemon("door", "puppet", 4, sockets="control", all_channels=True, lists_daemons=True),
)
FRAGILE = (Daemon("fragile", "puppet", 1, intensity=3, period=5.0), *TABLE)
BROKEN = (*TABLE, Daemon("broken", "puppet", 9, intensity=2))
STUBBORN = (*(Daemon(f"stubborn{n}", "puppet", 10 + n) for n in range(4)), *TABLE)


CODE = "old"


class Puppet:
    def __init__(self, inheritance: Inheritance) -> None:
        self.name = inheritance.name
        self.inheritance = inheritance
        self.loop = Loop()
        self.store = Store(self.loop, inheritance.store)
        self.channel = inheritance.channel
        self.exits: list[tuple[int, int]] = []
        self.refused: list[str] = []
        self.held: list[Fd] = []

    def run(self) -> None:
        if self.name == "broken":
            raise RuntimeError("broken as a test ordered")
        confine(None)
        if "channel.door" in self.inheritance.fds:
            self.open_door()
        else:
            self.watch(self.channel, lambda data, fds: self.obey(self.channel, data, fds))
        self.store.on_exit(lambda pid, status: self.exits.append((pid, status)))
        self.store.on_refused(lambda key, text: self.refused.append(f"{key}: {text}"))
        if self.name.startswith("stubborn"):
            self.store.on_closing(lambda: None)
        self.loop.spawn(self.begin())
        self.loop.run()

    async def begin(self) -> None:
        for deposit in await self.store.collect():
            if deposit.key == "crash":
                os._exit(3)
            close_all(deposit.fds)
        self.store.ready()

    # — talking —

    def watch(self, fd: Fd, callback: Callable[[bytes, list[Fd]], object]) -> None:
        set_blocking(fd.fileno(), False)

        def readable(_: int) -> None:
            received = receive_with_fds(fd.fileno())
            if received.data:
                callback(received.data, received.fds)
            else:
                self.loop.unwatch(fd.fileno())
                fd.close()

        self.loop.watch(fd.fileno(), EPOLLIN, readable)

    def reply(self, fd: Fd, data: bytes, fds: list[Fd]) -> None:
        send_with_fds(fd.fileno(), data, [fd.fileno() for fd in fds])
        close_all(fds)

    def open_door(self) -> None:
        clients: list[Fd] = []
        control = self.inheritance.fds["control"]

        def accept(_: int) -> None:
            with socket.socket(fileno=os.dup(control.fileno())) as listener:
                client = Fd(listener.accept()[0].detach())
            clients.append(client)
            self.watch(client, lambda data, fds: from_client(client, data, fds))

        def from_client(client: Fd, data: bytes, fds: list[Fd]) -> None:
            to = json.loads(data)["to"]
            if to == self.name:
                self.obey(client, data, fds)
            else:
                self.reply(self.inheritance.fds[f"channel.{to}"], data, fds)

        for name, fd in self.inheritance.fds.items():
            if name.startswith("channel.") and name != "channel.door":
                self.watch(fd, lambda data, fds: self.reply(clients[-1], data, fds))
        self.loop.watch(control.fileno(), EPOLLIN, accept)

    # — doing —

    def obey(self, answer_to: Fd, data: bytes, fds: list[Fd]) -> None:
        task = self.loop.spawn(self.do(json.loads(data), fds))
        task.when_done(lambda: self.reply(answer_to, *data_of(task.result())))

    async def do(self, order: dict[str, Any], fds: list[Fd]) -> Any:
        try:
            return await getattr(self, f"do_{order['do']}")(order, fds)
        finally:
            close_all(fds)

    async def do_deposit(self, order: dict[str, Any], fds: list[Fd]) -> Any:
        for number in range(order.get("times", 1)):
            key = order["key"].format(number)
            self.store.deposit(key, order.get("blob", "").encode(), fds)
            if order.get("drop"):
                self.store.drop(key)
        return {"ok": True}

    async def do_collect(self, order: dict[str, Any], fds: list[Fd]) -> Any:
        deposits = await self.store.collect()
        answer = [fd for deposit in deposits for fd in deposit.fds]
        keys = [[d.key, d.blob.decode(), len(d.fds)] for d in deposits]
        if order.get("silent"):
            close_all(answer)
            return {"count": len(deposits)}
        return {"deposits": keys}, answer

    async def do_daemons(self, order: dict[str, Any], fds: list[Fd]) -> Any:
        daemons = await self.store.daemons()
        return {"daemons": [d[:4] for d in daemons]}, [d.pidfd for d in daemons if d.pidfd]

    async def do_heard(self, order: dict[str, Any], fds: list[Fd]) -> Any:
        return {"exits": self.exits, "refused": self.refused}

    async def do_orphan(self, order: dict[str, Any], fds: list[Fd]) -> Any:
        """A grandchild that outlives its parent by nothing: init has to reap it."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            grandchild = os.fork()
            if grandchild == 0:
                os.close(writer)
                os.read(reader, 1)  # until everybody else closed it
                os._exit(order["status"])
            os._exit(0)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
        return {"ok": True}

    async def do_linger(self, order: dict[str, Any], fds: list[Fd]) -> Any:
        """A child, in a session of its own or not, that ignores what it can."""
        child = os.fork()
        if child == 0:
            if order.get("session", True):
                os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            while True:
                signal.pause()
        return {"pid": child}

    async def do_garbage(self, order: dict[str, Any], fds: list[Fd]) -> Any:
        """Frames that are none, and one with more descriptors than a frame may have."""
        number = self.inheritance.store.fileno()
        for data in (b"?", b"d", b"d\xff", b"c123", b"x" * 2000, b"r" * 5000, b"W" + bytes(8)):
            send_with_fds(number, data, [number])
        send_with_fds(number, b"d\x01k", [number] * 20)
        return {"ok": True}

    async def do_flood(self, order: dict[str, Any], fds: list[Fd]) -> Any:
        """Ask, and never read, until there is no room for another question."""
        number = self.inheritance.store.fileno()
        self.loop.unwatch(number)
        asked = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                send_with_fds(number, wire.encode(wire.Collect(1, 0)), flags=socket.MSG_DONTWAIT)
                asked += 1
        return {"asked": asked}

    async def do_about(self, order: dict[str, Any], fds: list[Fd]) -> Any:
        with open("/proc/self/status", encoding="ascii") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        links = {}
        for entry in os.listdir("/proc/self/fd"):
            try:
                links[entry] = os.readlink(f"/proc/self/fd/{entry}")
            except FileNotFoundError:  # the descriptor of the listing itself
                continue
        return {
            "pid": os.getpid(),
            "uid": os.getuid(),
            "gid": os.getgid(),
            "groups": os.getgroups(),
            "session": os.getsid(0),
            "status": status,
            "fds": links,
            "named": {name: fd.fileno() for name, fd in self.inheritance.fds.items()},
            "settings": self.inheritance.settings,
            "code": CODE,
        }


def data_of(answer: Any) -> tuple[bytes, list[Fd]]:
    body, fds = answer if isinstance(answer, tuple) else (answer, [])
    return json.dumps(body).encode(), fds


def main(inheritance: Inheritance) -> None:
    Puppet(inheritance).run()
