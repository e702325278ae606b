"""The node under measurement, and what every row asks of it."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fildes.cli._client import Client, pids_of
from fildes.testing.node import Node

APPS = Path(__file__).parent / "apps"


@dataclass(frozen=True)
class Effort:
    """How much of each thing is done: the whole run stays below six minutes, the quick one is about one."""

    starts: int = 200  # from zero, of each program
    execs: int = 9  # of each peer
    many: int = 100  # services asleep, and a request to each at once
    waves: int = 9
    seconds: float = 2.0  # of load, for each figure
    rounds: int = 3  # each server's best of so many, in turn: what a shared machine does to one, it does to all
    looks: int = 9  # at an instance's memory: a cgroup is charged in steps of some hundred KiB
    calm: float = 10.0  # seconds that wake-ups are counted
    ups: int = 5
    commands: int = 10
    idle: int = 10_000  # connections
    asleep: int = 10_000  # services


QUICK = Effort(
    starts=40,
    execs=3,
    many=20,
    waves=3,
    seconds=1.0,
    rounds=1,
    looks=3,
    calm=3.0,
    ups=1,
    commands=5,
    idle=2000,
    asleep=2000,
)


class Missing(Exception):
    """Something that a row needs is not there; the text says what to do."""


@dataclass(frozen=True)
class Start:
    """One answer from zero; CLOCK_MONOTONIC, in seconds."""

    connected: float
    answered: float
    timeline: dict[str, float]
    cpu: dict[str, float]  # ms, by process

    @property
    def ms(self) -> float:
        return (self.answered - self.connected) * 1e3


@dataclass(frozen=True)
class Running:
    zygote: int  # pids, as seen from here
    instance: int


class Stand:
    """A node, and a connection to its control socket."""

    def __init__(self, node: Node | None = None) -> None:
        # All load comes from one address.
        self.node = node or Node(arguments=("--client-connections", "0"))

    def __enter__(self) -> Self:
        self.node.__enter__()
        self._client = Client(str(self.node.state))
        self.address = self.node.addresses[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.__exit__(kind, value, trace)
        self.node.__exit__(kind, value, trace)

    @property
    def url(self) -> str:
        return "http://{}:{}/".format(*self.address)

    def publish(self, folder: Path) -> float:
        """Seconds that the command took."""
        began = time.monotonic()
        self.node.fildes("publish", str(folder))
        return time.monotonic() - began

    def publish_copy(self, folder: Path, app: str, name: str, more: str = "") -> float:
        """`app` of bench/apps under another name, with `more` in its manifest; its files go into `folder`."""
        target = folder / name
        target.mkdir()
        for file in (APPS / app).iterdir():
            if file.is_file():
                text = file.read_text()
                if file.name == "fildes.toml":
                    text = re.sub(rf"\b{app}\b(?=[\".])", name, text) + more
                (target / file.name).write_text(text)
        return self.publish(target)

    def stop(self, service: str) -> None:
        """No instance any more; the zygote stays, and has what the next instance needs a moment later."""
        self._client.ask("stop", {"service": service})

    def start(self, service: str) -> None:
        self._client.ask("start", {"service": service})

    def policy(self, **change: object) -> None:
        self._client.ask("policy", {"owner": None, "change": change})

    def running(self, service: str) -> Running:
        state, pids = self._ps(service)
        found = [pids[place] for place in (state["zygote"], state["instances"][0]["pid"])]
        if None in found:
            raise RuntimeError(f"{service} ended while it was looked at")
        return Running(*[pid for pid in found if pid is not None])

    def zygote(self, service: str) -> int:
        """The pid of a warm service's."""
        state, pids = self._ps(service)
        pid: int | None = pids[state["zygote"]] if state["zygote"] is not None else None
        if pid is None:
            raise RuntimeError(f"{service} has no zygote: {state['note']}")
        return pid

    def timeline(self, service: str) -> dict[str, float]:
        timeline: dict[str, float] = self._ps(service)[0]["instances"][0]["timeline"]
        return timeline

    def _ps(self, service: str) -> tuple[dict[str, Any], list[int | None]]:
        value, fds = self._client.ask("ps", {"service": service, "all": False})
        return value["services"][0], pids_of(value, fds)

    # — requests —

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=15)

    def get(self, service: str) -> Start:
        """One request on a connection of its own, from before the connect to the first byte of a 200."""
        began = time.monotonic()
        with self.connect() as sock:
            sock.sendall(request(service))
            head = sock.recv(65536)
            answered = time.monotonic()
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"{service} answered {head[:80]!r}")
        return Start(began, answered, {}, {})


def request(service: str) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: %s.localhost\r\n\r\n" % service.encode()
