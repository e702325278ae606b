"""A whole publish: real children, the real cell, real uv; the bus, the catalogue and debug are a scripted peer."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import socket
import subprocess
import tarfile
from collections.abc import Coroutine, Iterator
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
from fildes.wire import catalogue
from fildes.wire.publish import Cancel, Index, Lock, Progress, Publish, Repack

ROOT = os.geteuid() == 0


class Stage:
    """The publish process's parts, and somebody who plays everybody else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "publish").mkdir(exist_ok=True)
        self.index = discover([], os.environ)
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
        if asked.fds:
            bundle, pack = (os.pread(fd.fileno(), 1 << 28, 0) for fd in asked.fds)
            assert hashlib.sha256(bundle).hexdigest() == body.bundle
            self.stored[body.bundle, body.abi] = pack
            self.current[body.manifest.name] = (body, bundle)
        self.messages.append(body)
        return catalogue.Published("4f1c", body.manifest.name, ["http://x.localhost/"])

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


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    before = set(os.listdir("/proc/self/fd"))
    stage = Stage(tmp_path)
    yield stage
    assert stage.left() == [], "the scratch is swept"
    stage.close()
    assert set(os.listdir("/proc/self/fd")) <= before, "descriptors were left behind"


MANIFEST = 'name = "shop"\nruntime = "asgi"\nentry = "main:app"\nhosts = ["shop.localhost"]\n'
PROGRAM = {"fildes.toml": MANIFEST, "main.py": "app = None\n", "templates/a.html": "<p>"}


def test_a_program_without_dependencies(stage: Stage) -> None:
    published = stage.publish(PROGRAM)
    assert published.release == "4f1c"
    assert [step.phase for step in stage.progress] == ["unpack", "manifest", "bundle", "pack"]
    assert all(step.ms >= 0 and step.ticket == "ticket1" for step in stage.progress)
    files = stage.pack()
    assert files["/app/main.py"] == b"app = None\n"
    assert [path for path in files if path.endswith(".pyc")] == ["/app/__pycache__/main.cpython-" + files_tag(files)]
    assert stage.messages[0].manifest.name == "shop" and stage.messages[0].abi.startswith("cpython-3")


def files_tag(files: dict[str, bytes]) -> str:
    return next(path.rpartition("cpython-")[2] for path in files if path.endswith(".pyc"))


def test_a_second_publish_sends_no_files(stage: Stage) -> None:
    stage.publish(PROGRAM)
    stage.publish(PROGRAM)
    assert "known already" in stage.progress[-1].text
    assert stage.messages[0].bundle == stage.messages[1].bundle
    assert len(stage.stored) == 1


def test_a_folder_of_pages(stage: Stage) -> None:
    stage.publish({"index.html": "<p>hello"}, name="pages")
    assert stage.messages[0].manifest.runtime == "static" and stage.messages[0].abi == ""
    assert stage.pack() == {"/app/index.html": b"<p>hello"}


def refused(stage: Stage, files: dict[str, str], **options: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        stage.publish(files, **options)
    return caught.value


def test_what_is_wrong_is_said_and_leaves_nothing(stage: Stage) -> None:
    assert "fildes.toml: is missing" in refused(stage, {"main.py": ""}).text
    assert "fildes.toml:2: " in refused(stage, {"fildes.toml": 'name = "shop"\nruntime = "asg"\n'}).text
    assert "'..' leads out" in refused(stage, {"../x": ""}).text
    error = refused(stage, PROGRAM | {"requirements.txt": "flask\n-e .\n"})
    assert "requirements.txt:2: " in error.text and "builds from source" in error.text
    assert 'is "shop" there and "other"' in refused(stage, PROGRAM, name="other").text
    stage.refusal = Refused("warm", "main.py raises on import")
    assert refused(stage, PROGRAM).text == "main.py raises on import"


def test_not_a_tar(stage: Stage) -> None:
    archive = memfd.sealed("tar", b"hello")
    with pytest.raises(Refused, match="not a whole tar archive"):
        stage.run(stage.script.ask("publish.publish", Publish("t", "anna"), [archive], reply=catalogue.Published))


def test_giving_up_in_the_middle(stage: Stage) -> None:
    """The upload is a pipe that never ends: its child waits for more until whoever asked is gone."""
    reader, writer = os.pipe()
    asked = stage.loop.spawn(
        stage.script.ask("publish.publish", Publish("gone", "anna"), [Fd(reader)], reply=catalogue.Published)
    )
    asked.when_done(lambda: None)
    while not stage.left():
        stage.loop.turn()
    stage.script.tell("publish.cancel", Cancel("gone"))
    stage.script.tell("publish.cancel", Cancel("never was"))
    with pytest.raises(Refused):
        stage.loop.run_until(asked)
    os.close(writer)
    with pytest.raises(ChildProcessError):
        # Only the runner's keeper is left: no child of the publish itself.
        while os.waitpid(-1, os.WNOHANG) == (0, 0):
            raise ChildProcessError


def test_two_at_once(stage: Stage) -> None:
    tasks = [stage.loop.spawn(stage.ask(PROGRAM | {"n.txt": str(n)})) for n in range(5)]
    for task in tasks:
        task.when_done(lambda: None)
    for task in tasks:
        stage.loop.run_until(task)
    assert len(stage.messages) == 5


@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    small = tmp_path / "publish"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=0755", "fildes-test", str(small)], check=True)
    try:
        stage = Stage(tmp_path)
        try:
            for size in (700_000, 400_000):  # while it is unpacked; while its bundle is written
                error = refused(stage, PROGRAM | {"large.txt": "x" * size})
                assert error.code == "disk-full" and "nothing was changed; free some space" in error.text
                assert stage.left() == []
            error = refused(stage, PROGRAM | {f"{n}.txt": "x" * 4000 for n in range(40)} | {"a.py": "x = 1\n" * 9000})
            assert "is full" in error.text, "while it is packed"
            stage.publish(PROGRAM)
        finally:
            stage.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


# --- with the package index


def index_reachable(index: dict[str, Any]) -> bool:
    host, _, port = str(index["hosts"][0]).rpartition(":") if index["hosts"] else ("", "", "0")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def online(stage: Stage) -> Stage:
    if not index_reachable(stage.index):
        pytest.skip(f"no package index can be reached from here ({stage.index['hosts'][:1]})")
    return stage


WITH_WHEEL = PROGRAM | {"requirements.txt": "iniconfig>=2,<3  # a tiny pure wheel\n"}


def test_dependencies_by_way_of_the_net_driver(online: Stage) -> None:
    online.publish(WITH_WHEEL)
    assert [step.phase for step in online.progress] == ["unpack", "manifest", "resolve", "bundle", "install", "pack"]
    assert "1 packages, locked" in online.progress[2].text
    files = online.pack()
    assert "/deps/iniconfig/__init__.py" in files
    assert any(path.startswith("/deps/iniconfig/__pycache__/") for path in files)
    assert "/deps/.lock" not in files

    online.publish(WITH_WHEEL)
    assert [step.phase for step in online.progress] == ["unpack", "manifest", "resolve", "bundle", "pack"]
    assert "locked before" in online.progress[2].text
    assert online.messages[0].bundle == online.messages[1].bundle

    online.publish(WITH_WHEEL | {"more.txt": ""})
    assert [step.phase for step in online.progress] == ["unpack", "manifest", "resolve", "bundle", "install", "pack"]
    assert "installed before" in online.progress[4].text
    again = online.pack()
    assert {path: data for path, data in again.items() if path in files} == files

    online.publish(WITH_WHEEL, upgrade=True)
    assert "locked before" not in online.progress[2].text


def test_what_cannot_be_resolved(online: Stage) -> None:
    error = refused(online, PROGRAM | {"requirements.txt": "iniconfig>=999\n"})
    assert error.text.startswith("requirements.txt: ") and "iniconfig" in error.text
    wrong = "iniconfig==2.0.0 --hash=sha256:" + "0" * 64 + "\n"
    error = refused(online, PROGRAM | {"requirements.lock": wrong})
    assert "iniconfig" in error.text and "requirements.lock" in error.text


def test_the_net_driver_is_killed_meanwhile(online: Stage) -> None:
    """Its first proxies end with it at once; a later one serves."""
    real, calls = online.net.index, []

    async def flaky(asked: Asked[Index]) -> tuple[Index, list[Fd]]:
        calls.append(1)
        if len(calls) < 3:
            ours, theirs = seqpacket_pair()
            ours.close()
            return Index(), [theirs]
        return await real(asked)

    online.script.on("net.index", Index, flaky)
    online.publish(WITH_WHEEL)
    assert len(calls) >= 3


def test_the_runner_is_killed(stage: Stage) -> None:
    ended: list[int] = []
    stage.resolver._on_end = lambda: ended.append(1)
    children = [int(word) for word in Path("/proc/thread-self/children").read_text().split()]
    # Others may be there: nodes that other tests share.
    [pid] = [child for child in children if Path(f"/proc/{child}/comm").read_text() == "fildes-cell\n"]
    os.kill(pid, signal.SIGKILL)
    while not ended:
        stage.loop.turn()
    # The fixture waits for a child that ended in order: give it one.
    os.waitpid(pid, 0)
    if os.fork() == 0:
        os._exit(0)
