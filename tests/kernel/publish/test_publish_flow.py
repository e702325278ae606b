"""A whole publish: real children, the real cell, real uv; the bus, the catalogue and debug are a scripted peer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fildes.daemon.peer import Asked, Refused
from fildes.kernel import memfd
from fildes.kernel.fds import Fd, seqpacket_pair
from fildes.testing import eventually
from fildes.wire import catalogue
from fildes.wire.publish import Cancel, Index, Publish

Stage = Any  # conftest.py has it
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


def test_files_that_were_known_and_are_gone_are_sent(stage: Stage) -> None:
    """A publish asks while another one of the same files is being warmed; that one fails before it is its turn."""
    stage.publish(PROGRAM)
    stage.publish(PROGRAM | {"templates/a.html": "<h1>"})
    gone = stage.forgets_the_next()
    stage.publish(PROGRAM)
    assert gone == [stage.messages[-1].bundle]
    assert [step.text for step in stage.progress][-2] == "known already: nothing to install or to pack"
    assert stage.pack()["/app/main.py"] == b"app = None\n"


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
def test_a_full_disk(tmp_path: Path, start_stage: Any) -> None:
    small = tmp_path / "publish"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=0755", "fildes-test", str(small)], check=True)
    try:
        stage = start_stage(tmp_path)
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

    def runners() -> list[int]:
        children = [int(word) for word in Path("/proc/thread-self/children").read_text().split()]
        # Others may be there: nodes that other tests share.
        return [child for child in children if Path(f"/proc/{child}/comm").read_text() == "fildes-cell\n"]

    eventually(lambda: len(runners()) == 1, 10, "the runner has its name")
    [pid] = runners()
    os.kill(pid, signal.SIGKILL)
    while not ended:
        stage.loop.turn()
    # The fixture waits for a child that ended in order: give it one.
    os.waitpid(pid, 0)
    if os.fork() == 0:
        os._exit(0)


def test_a_program_without_a_manifest_is_told_which_to_write(stage: Stage) -> None:
    files = {"app.py": "from flask import Flask\napp = Flask(__name__)\n", "requirements.txt": "flask\n"}
    text = refused(stage, files, folder="Book Shop").text
    assert "app.py:2 makes a Flask application" in text
    assert '    name = "book-shop"\n    runtime = "wsgi"\n    entry = "app:app"\n' in text
