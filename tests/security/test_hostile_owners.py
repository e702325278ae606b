"""Owners at the control socket who want more than their share: of its places, of the logs' readers, of the disk."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fildes.kernel.fds import Fd, receive_with_fds, send_with_fds
from fildes.testing import Node, write_program
from fildes.wire import tenant as codec

pytestmark = pytest.mark.root

ANNA, OTHERS = 4242, range(5100, 5110)
KEEPER = """
import sqlite3

async def act(path):
    db = sqlite3.connect("/data/db.sqlite3")
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS t (x)")
    db.close()
    return "kept"
"""
GRANT = """
    [grants.db]
    kind = "sqlite"
    quota = "1MiB"
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node() as node:
        node.fildes("owner", "add", "anna", str(ANNA))
        folder = write_program(tmp_path_factory.mktemp("owner"), "annas", KEEPER, GRANT)
        node.fildes("publish", str(folder), "--owner", "anna")
        assert node.request("/", host="annas.localhost").body == b"kept"
        yield node


@contextlib.contextmanager
def connection(node: Node, uid: int) -> Iterator[socket.socket]:
    """To the control socket, as `uid`: the kernel notes who connects."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        os.seteuid(uid)
        try:
            sock.connect(f"{node.state}/control")
        finally:
            os.seteuid(0)
        yield sock


def ask(sock: socket.socket, verb: str, body: dict[str, Any], fds: Sequence[int] = ()) -> tuple[Any, list[Fd]]:
    """The answer's body, or its error code."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it said why, and closed
        send_with_fds(sock.fileno(), codec.pack({"type": "ask", "id": 1, "verb": verb, "body": body}), fds)
    assert select.select([sock], [], [], 60)[0], f"no answer to {verb}"
    try:
        received = receive_with_fds(sock.fileno(), 128 * 1024, 240)
    except ConnectionResetError:  # what it had said before is still there (unix(7))
        received = receive_with_fds(sock.fileno(), 128 * 1024, 240)
    message = codec.unpack(received.data)
    return (message["body"] if message["type"] == "answer" else message["code"]), received.fds


def test_owners_leave_room_for_operators_at_the_door(node: Node) -> None:
    for uid in OTHERS:
        node.fildes("owner", "add", f"owner-{uid}", str(uid))
    with contextlib.ExitStack() as stack:
        answers = []
        for uid in OTHERS:
            for _ in range(8):
                sock = stack.enter_context(connection(node, uid))
                answers.append(ask(sock, "whoami", {})[0])
        assert "busy" in answers and {"owner": "owner-5100", "operator": False} in answers
        assert "annas" in node.fildes("ps").stdout


def test_owners_leave_room_for_operators_in_the_logs(node: Node) -> None:
    held: list[Fd] = []
    try:
        with connection(node, ANNA) as sock:
            while True:
                answer, fds = ask(sock, "logs", {"service": "annas", "follow": True, "owner": None})
                if not fds:
                    break
                held += fds
        assert answer == "busy" and len(held) == 16
        node.fildes("logs", "annas")
    finally:
        for fd in held:
            fd.close()


def test_what_is_put_back_keeps_to_the_quota(node: Node, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "large")) as database, database:
        database.execute("CREATE TABLE t (x)")
        database.execute("INSERT INTO t VALUES (zeroblob(64 << 20))")
    with connection(node, ANNA) as sock, open(tmp_path / "large", "rb") as file:
        answer, _ = ask(sock, "db-restore", {"service": "annas", "grant": "db"}, [file.fileno()])
        assert answer == "quota"
        none, _ = ask(sock, "db-restore", {"service": "annas", "grant": "another"}, [file.fileno()])
        assert none == "not-found"
    assert sum(path.stat().st_blocks * 512 for path in (node.state / "data/anna").rglob("*")) < 4 << 20
    assert node.request("/", host="annas.localhost").body == b"kept"


def test_no_command_runs_that_nobody_knows_of(node: Node, tmp_path: Path) -> None:
    """Its lease is its life, and its place in the table: what is none may not start anything."""
    code = "import os, time; os.write(1, b'alive'); time.sleep(60)"
    reader, writer = os.pipe()
    none, other = os.pipe()
    here, there = socket.socketpair()
    with open(tmp_path / "file", "wb") as file, open(os.devnull, "rb") as null, here, there:
        for lease in (file.fileno(), null.fileno(), none, here.fileno(), reader):
            with connection(node, ANNA) as sock:
                body = {"service": "annas", "arguments": ["-c", code]}
                assert ask(sock, "run", body, [lease, none, writer, writer])[0] == "malformed"
    for fd in (writer, none, other):
        os.close(fd)
    with open(reader, "rb") as said:  # until nobody holds the other end
        assert said.read() == b""
    assert not [
        service["commands"]
        for service in json.loads(node.fildes("ps", "--json").stdout)["services"]
        if service["commands"]
    ]
