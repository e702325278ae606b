"""A whole publish for tests: real children, the real cell, real uv; everybody else is a scripted peer."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from fildes.daemon.peer import Asked, Peer, Refused
from fildes.drivers.net.__main__ import Net
from fildes.drivers.net.census import Census
from fildes.drivers.net.lookup import Lookup
from fildes.kernel import memfd, process
from fildes.kernel.fds import Fd, close_all, seqpacket_pair
from fildes.kernel.libc import prctl
from fildes.kernel.loop import Loop
from fildes.pack.reader import Pack
from fildes.publish.__main__ import start_cell
from fildes.publish.flow import Publishing
from fildes.publish.index import discover
from fildes.publish.resolver import Resolver
from fildes.publish.scratch import Scratch
from fildes.testing.packages import Index as Shop
from fildes.wire import catalogue
from fildes.wire.publish import Cancel, Index, Lock, Progress, Publish, Repack

ROOT = os.geteuid() == 0


class Stage:
    """The publish process's parts, and somebody who plays everybody else."""

    def __init__(self, folder: Path, index: dict[str, Any] | None = None) -> None:
        self.folder = folder
        (folder / "publish").mkdir(exist_ok=True)
        self.index = index if index is not None else discover([], os.environ)
        self.scratch = Scratch(Fd.open(str(folder / "publish"), os.O_RDONLY | os.O_DIRECTORY))
        process.set_child_subreaper()  # as init is: the runner becomes a child of ours
        umask = os.umask(0o077)  # as init sets it
        control = start_cell(self.scratch.cell(), {"root": ROOT, "uid_base": 700_000, "index": self.index})
        os.umask(umask)
        self.loop = Loop()
        here, there = seqpacket_pair()
        self.owned = [here, there, control]
        peer, script = Peer(self.loop, here), Peer(self.loop, there)
        self.script = script
        self.resolver = Resolver(self.loop, peer, control, on_end=self.loop.stop)
        self.publishing = Publishing(self.loop, peer, self.scratch, self.resolver)
        peer.on("publish.publish", Publish, self.publishing.publish)
        peer.on("publish.repack", Repack, self.publishing.repack)
        peer.on("publish.lock", Lock, self.publishing.lock)
        peer.on_event("publish.cancel", Cancel, self.publishing.cancel)
        self.lookup = Lookup(self.loop)
        self.net = Net(self.loop, self.lookup, Census(set), {"index": self.index})
        script.on("net.index", Index, self.net.index)
        script.on("catalogue.known", catalogue.Known, self.known)
        script.on("catalogue.sources", catalogue.Sources, self.sources)
        script.on("catalogue.publish", catalogue.Publish, self.published)
        script.on_event("debug.progress", Progress, lambda asked: self.progress.append(asked.body))
        self.progress: list[Progress] = []
        self.stored: dict[tuple[str, str], bytes] = {}
        self.current: dict[str, tuple[catalogue.Publish, bytes]] = {}
        self.messages: list[catalogue.Publish] = []
        self.refusal: Refused | None = None
        self._forgets: list[list[str]] = []
        self.count = 0

    async def known(self, asked: Asked[catalogue.Known]) -> catalogue.Knowledge:
        pack = self.stored.get((asked.body.bundle, asked.body.abi))
        return catalogue.Knowledge(hashlib.sha256(pack).hexdigest() if pack else None)

    async def sources(self, asked: Asked[catalogue.Sources]) -> tuple[catalogue.Sourced, list[Fd]]:
        if asked.body.service not in self.current:
            raise Refused("not-found", "no such service")
        body, bundle = self.current[asked.body.service]
        told = catalogue.Sourced("4f1c", body.owner, body.manifest, body.bundle, body.abi)
        return told, [memfd.sealed("bundle", bundle)]

    async def published(self, asked: Asked[catalogue.Publish]) -> catalogue.Published:
        body = asked.body
        if self.refusal is not None:
            raise self.refusal
        if self._forgets and not asked.fds:
            self._forgets.pop().append(body.bundle)
            del self.stored[body.bundle, body.abi]
            raise Refused("not-stored", "the files of this bundle are not stored here: send them")
        if asked.fds:
            bundle, pack = (os.pread(fd.fileno(), 1 << 28, 0) for fd in asked.fds)
            assert hashlib.sha256(bundle).hexdigest() == body.bundle
            self.stored[body.bundle, body.abi] = pack
            self.current[body.manifest.name] = (body, bundle)
        self.messages.append(body)
        return catalogue.Published("4f1c", body.manifest.name, ["http://x.localhost/"])

    def forgets_the_next(self) -> list[str]:
        """The files of what is published next without any are gone; the list will have that bundle."""
        gone: list[str] = []
        self._forgets.append(gone)
        return gone

    def run(self, coroutine: Coroutine[Any, Any, Any], seconds: float = 120) -> Any:
        task = self.loop.spawn(coroutine)
        task.when_done(lambda: None)
        deadline = self.loop.call_later(seconds, lambda: task.fail(TimeoutError(f"{seconds} s")))
        try:
            return self.loop.run_until(task)
        finally:
            deadline.cancel()

    def ask(self, files: dict[str, str], **options: Any) -> Coroutine[Any, Any, Any]:
        self.count += 1
        archive = memfd.create("tar")
        os.write(archive.fileno(), tar_of(files))
        body = Publish(f"ticket{self.count}", "anna", **options)
        return self.script.ask("publish.publish", body, [archive], reply=catalogue.Published, timeout=110)

    def publish(self, files: dict[str, str], **options: Any) -> catalogue.Published:
        self.progress.clear()
        answer = self.run(self.ask(files, **options))
        assert not answer.fds
        published: catalogue.Published = answer.body
        return published

    def pack(self) -> dict[str, bytes]:
        """The files of the last pack that was stored."""
        last = self.messages[-1]
        with memfd.sealed("pack", self.stored[last.bundle, last.abi]) as fd:
            pack = Pack(fd.fileno())
            return {entry.path: pack.read(entry) for entry in pack if not entry.is_dir}

    def bundle(self, service: str = "shop") -> dict[str, bytes]:
        """The files of the bundle that was stored last for a service."""
        with tarfile.open(fileobj=io.BytesIO(self.current[service][1])) as tar:
            members = [(member.name, tar.extractfile(member)) for member in tar if member.isfile()]
            return {name: file.read() for name, file in members if file is not None}

    def left(self) -> list[str]:
        return [str(path) for path in (self.folder / "publish/jobs").iterdir()]

    def close(self) -> None:
        for _ in range(8):  # the net driver learns that its leases ended
            self.loop.turn(block=False)
        self.lookup.close()
        self.loop.close()
        close_all(self.owned)
        self.scratch.close()
        pid, status = os.wait()
        prctl("PR_SET_CHILD_SUBREAPER", process.PR_SET_CHILD_SUBREAPER, 0)
        assert pid > 0 and status == 0, "the runner ended in order, and took its namespace with it"


def tar_of(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content.encode()), 1_700_000_000
            tar.addfile(info, io.BytesIO(content.encode()))
    return out.getvalue()


@contextlib.contextmanager
def staged(folder: Path, index: dict[str, Any] | None = None) -> Iterator[Stage]:
    """A Stage that leaves nothing."""
    before = set(os.listdir("/proc/self/fd"))
    stage = Stage(folder, index)
    yield stage
    assert stage.left() == [], "the scratch is swept"
    stage.close()
    assert set(os.listdir("/proc/self/fd")) <= before, "descriptors were left behind"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path) as stage:
        yield stage


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """An index of our own, for a module."""
    with Shop() as index:
        yield index


@pytest.fixture(scope="module")
def _with_shop(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    found = discover([shop.url], {"UV_HTTP_TIMEOUT": "1", "UV_HTTP_RETRIES": "0"})
    with staged(tmp_path_factory.mktemp("stage"), found) as stage:
        yield stage


@pytest.fixture
def shopper(_with_shop: Stage, shop: Shop) -> Iterator[Stage]:
    """A Stage whose only index is `shop`; what was published before is forgotten."""
    stage = _with_shop
    stage.stored.clear()
    stage.current.clear()
    stage.messages.clear()
    shop.misbehave("")
    for lock in (stage.folder / "publish/locks").iterdir():
        lock.unlink()
    yield stage
    assert stage.left() == []


@pytest.fixture
def refused() -> Callable[..., str]:
    """`refused(stage, files, **options)`: the sentence with which a publish is refused."""

    def refused(stage: Stage, files: dict[str, str], **options: Any) -> str:
        with pytest.raises(Refused) as caught:
            stage.publish(files, **options)
        return caught.value.text

    return refused


@pytest.fixture
def start_stage() -> type[Stage]:
    """For a test that closes it itself."""
    return Stage
