"""What code that got into the resolver's cell could do: nothing outside of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fildes
from fildes.kernel import mounts, namespaces, process
from fildes.kernel.libc import prctl
from fildes.publish import cell
from fildes.sandbox import profile
from fildes.testing import forked

ROOT = os.geteuid() == 0


def inside(folder: Path, probe: Callable[[cell.Place], Any]) -> Any:
    """What `probe` returns in a cell whose scratch is `folder`."""
    folder.chmod(0o1777)
    uv = pytest.importorskip("uv")
    room = cell.Cell(
        scratch=str(folder),
        uid=700_012 if ROOT else None,
        python=cell.interpreter(),
        uv=os.path.realpath(uv.find_uv_bin()),
        ca="/etc/ssl/certs/ca-certificates.crt",
        filter=profile.compile(profile.load("cell")),
    )
    reader, writer = os.pipe()

    def enter() -> None:
        # The one that enters ends, and goes on as another: its answer comes by a pipe of its own.
        place = cell.enter(room)
        if place.missing:
            os.write(writer, repr({"skip": place.missing}).encode())
        else:
            os.write(writer, repr(probe(place)).encode())
        os._exit(0)

    process.set_child_subreaper()  # as init is: what goes on inside becomes a child of ours
    try:
        child = forked.start(enter, keep=[writer])
        os.close(writer)
        with open(reader, encoding="utf-8") as answer:
            text = answer.read()
        with pytest.raises(forked.Ended):
            child.result()
        os.wait()
    finally:
        prctl("PR_SET_CHILD_SUBREAPER", process.PR_SET_CHILD_SUBREAPER, 0)
    found = eval(text)  # the repr of plain values, of a child of ours
    if isinstance(found, dict) and "skip" in found:
        pytest.skip(f"no cell can be made here: {found['skip']}")
    return found


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except OSError as error:
        return type(error).__name__ if error.errno is None else os.strerror(error.errno)
    return "done"


def test_who_and_where(tmp_path: Path) -> None:
    def probe(place: cell.Place) -> object:
        return os.getpid(), (os.getuid(), os.geteuid()), sorted(os.listdir("/"))

    pid, uids, names = inside(tmp_path, probe)
    assert pid == 1
    assert uids == ((700_012,) * 2 if ROOT else (os.getuid(),) * 2)
    assert set(names) >= {"scratch", "uv", "usr", "dev"}
    assert not set(names) & {"proc", "sys", "tmp", "home", "var", "run", "boot", "mnt"}


def test_files(tmp_path: Path) -> None:
    package = os.path.dirname(fildes.__file__)

    def probe(place: cell.Place) -> object:
        def write(path: str) -> Callable[[], object]:
            return lambda: os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))

        return {
            "scratch": outcome(write(f"{place.scratch}/file")),
            "root": outcome(write("/file")),
            "usr": outcome(write("/usr/lib/new-file")),
            "interpreter": outcome(write(os.path.join(os.path.dirname(place.python), "file"))),
            "passwd": outcome(lambda: os.stat("/etc/passwd")),
            "proc": outcome(lambda: os.stat("/proc/1")),
            "package": outcome(lambda: os.stat(package)),
            "set-user-id": outcome(lambda: os.chmod(f"{place.scratch}/file", 0o4755)),
        }

    assert inside(tmp_path, probe) == {
        "scratch": "done",
        "root": "Read-only file system",
        "usr": "Read-only file system",
        "interpreter": "Read-only file system",
        "passwd": "No such file or directory",
        "proc": "No such file or directory",
        "package": "No such file or directory",
        "set-user-id": "Operation not permitted",
    }


def test_network(tmp_path: Path) -> None:
    def probe(place: cell.Place) -> object:
        def connect(address: str) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.settimeout(3)
                sock.connect((address, 80))

        def loopback() -> None:
            with socket.create_server(("127.0.0.1", 0)) as server:
                socket.create_connection(server.getsockname(), 3).close()

        return (
            outcome(loopback),
            outcome(lambda: connect("192.0.2.1")),
            outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
            outcome(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)),
            outcome(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
        )

    refused = "Address family not supported by protocol"
    assert inside(tmp_path, probe) == ("done", "Network is unreachable", refused, refused, refused)


def test_ways_out(tmp_path: Path) -> None:
    outside = os.getpid()

    def probe(place: cell.Place) -> object:
        return (
            outcome(lambda: namespaces.unshare(namespaces.CLONE_NEWUSER)),
            outcome(lambda: mounts.new_filesystem("tmpfs", {})),
            outcome(lambda: mounts.detach("/")),
            outcome(lambda: os.kill(outside, signal.SIGCONT)),
            outcome(lambda: os.setresuid(0, 0, 0)),
            outcome(lambda: os.chroot(place.scratch)),
        )

    no = "Operation not permitted"
    assert inside(tmp_path, probe) == (no, no, no, "No such process", no, no)


def test_what_it_is_for(tmp_path: Path) -> None:
    def probe(place: cell.Place) -> object:
        python = subprocess.run(
            [place.python, "-I", "-c", "import ssl; print(1)"], env={}, capture_output=True, check=False
        )
        uv = subprocess.run([place.uv, "--version"], env={}, capture_output=True, check=False)
        return python.stdout, uv.stdout[:3]

    assert inside(tmp_path, probe) == (b"1\n", b"uv ")
