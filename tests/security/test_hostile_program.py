"""Programs that turn on the orchestrator, on a real node: nobody else may notice.

A program owns its zygote: it says what it likes on the control socket, on the handle, on the conveyor, and leaves out
what the runtime would do.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fildes.testing import Node, eventually, traces

HONEST = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"honest"})
"""

# Its instance makes every socket that it holds blocking: of the conveyor the orchestrator holds the same description.
BLOCKING = """
import os
async def app(scope, receive, send):
    if scope["type"] == "http":
        for fd in range(3, 64):
            try:
                os.set_blocking(fd, True)
            except OSError:
                pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"blocking"})
"""

# Says that it is loaded while it goes on loading, with words that are none.
STILL_LOADING = """
import json, os, socket, time
socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, 3).send(json.dumps(WORDS).encode())
while True:
    print("files:", len(os.listdir("/usr/lib")), flush=True)
    time.sleep(0.05)
"""

# Its instance reports itself ready, and ends in order as soon as somebody comes.
SHIRKING = (
    HONEST
    + """
import os, select
from fildes.runtime import asgi
def serve(program, kit, *_):
    os.write(kit.handle, b"R")
    poll = select.poll()
    poll.register(kit.conveyor, select.POLLIN)
    poll.poll(20000)
    os._exit(0)
asgi.serve = serve
"""
)

# Its instance shuts the conveyor down, and ends badly.
SHUTTING = (
    HONEST
    + """
import os, select, socket
from fildes.runtime import asgi
def serve(program, kit, *_):
    os.write(kit.handle, b"R")
    poll = select.poll()
    poll.register(kit.conveyor, select.POLLIN)
    poll.poll(20000)
    socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, kit.conveyor).shutdown(socket.SHUT_RDWR)
    os._exit(1)
asgi.serve = serve
"""
)

# Its instance never says who it is, and does not hear that it is to end.
DEAF = (
    HONEST
    + """
import time
import fildes.zygote.main as zygote
zygote.server.usable = lambda: False  # Python forks then, which can be replaced
from fildes.runtime import asgi
real = zygote.send_with_fds
zygote.send_with_fds = lambda sock, data, *more: None if data == b"U" else real(sock, data, *more)
def serve(program, kit, *_):
    real(kit.handle, b"R")
    while True:
        time.sleep(60)
asgi.serve = serve
"""
)

# The zygote keeps a duplicate of all that its instances are given; each ends after one answer.
HOARDING = """
import asyncio, os
import fildes.zygote.main as zygote
zygote.server.usable = lambda: False  # Python forks then, which can be replaced
real = zygote.Zygote._start
def start(self, order, fds):
    for group in fds.values():
        for fd in group:
            os.dup(fd.fileno())
    real(self, order, fds)
zygote.Zygote._start = start
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"hoarding"})
        asyncio.get_running_loop().call_later(0.01, os._exit, 0)
"""

# Once its instance runs, the zygote does one thing, as fast as it can.
FLOODING = (
    HONEST
    + """
import ctypes, socket
import fildes.zygote.main as zygote
zygote.server.usable = lambda: False  # Python forks then, which can be replaced
real = zygote.Zygote._start
def start(self, *order):
    real(self, *order)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, 3)
    access = ctypes.CDLL(None).access
    while True:
        FLOOD
zygote.Zygote._start = start
"""
)

# Where its descriptors stand; asked to, it moves each that can be moved.
POSITIONS = """
import os
def positions(scope):
    said = []
    for fd in range(3, 32):
        try:
            said.append(os.lseek(fd, 7, 0) if scope["path"] == "/move" else os.lseek(fd, 0, 1))
        except OSError:
            said.append(-1)
    return " ".join(map(str, said)).encode()
"""

# It keeps what it can while it loads, leaves out step 3 (the serve filter), and then tries what it was taken.
UNFILTERED = """
import ctypes, errno, mmap, os
import fildes.kernel.seccomp as seccomp
import fildes.zygote.server
fildes.zygote.server.usable = lambda: False  # Python locks then, which can be left out
from fildes.kernel.libc import NR
from fildes.runtime import asgi, files, trap
libc = ctypes.CDLL(None, use_errno=True)
seccomp.install = trap.activate = files.activate = lambda *a, **k: None
kept = {path: os.open(path, os.O_RDONLY) for path in ("/", "/tmp", "/app", "/usr/lib", os.__file__)}
os.fchdir(kept["/usr/lib"])
written = os.open("/tmp/x", os.O_CREAT | os.O_RDWR)
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
room = ctypes.create_string_buffer(4096)
def call(name, *arguments):
    ctypes.set_errno(0)
    numbers = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return errno.errorcode[ctypes.get_errno()] if libc.syscall(NR[name], *numbers) == -1 else "done"
def tried():
    yield call("openat", kept["/tmp"], b"x", 0)
    yield call("openat", -100, b".", 0)
    yield call("getdents64", kept["/"], room, 4096)
    yield call("fchdir", kept["/app"])
    yield call("mmap", 0, 4096, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, kept[os.__file__], 0)
    yield call("execveat", kept[os.__file__], b"", 0, 0, 0x1000)
    yield call("execve", b"/bin/sh", 0, 0)
    yield call("clone", 17, 0, 0, 0, 0)
    yield call("clone", 17 | 0x8000, 0, 0, 0, 0)
    yield call("clone", 0x4111, 0, 0, 0, 0)
    for clock in (0, 1, 2, 3, 7, 11):
        yield call("clock_gettime", clock, room)
    yield call("getrandom", room, 8, 0)
    yield call("unshare", 0x10000000)
    yield call("setns", 0, 0)
    yield call("ptrace", 16, 1, 0, 0)
    yield call("kill", 1, 0)
    yield call("tgkill", 1, 1, 0)
    yield call("pidfd_open", 1, 0)
    yield call("io_uring_setup", 8, room)
    yield call("userfaultfd", 0)
    yield call("bpf", 0, room, 64)
    yield call("socket", 2, 1, 0)
    yield call("connect", 3, room, 16)
    yield call("accept4", 3, 0, 0, 0)
    yield call("personality", 0x400000)
    yield call("prctl", 4, 1)
    yield call("prctl", 26, 1)
    yield call("seccomp", 1, 8, 0)
    yield call("fchmod", written, 0o777)
    yield call("fallocate", written, 0, 0, 1 << 30)
    yield call("fcntl", 3, 8, 1)
def serve(*_):
    print("TRIED", *tried(), flush=True)
    os._exit(1)
asgi.serve = serve
async def app(scope, receive, send): ...
"""

pytestmark = pytest.mark.root


def make(folder: Path, program: str, **words: str) -> str:
    """A service named like its folder."""
    folder.mkdir()
    name = folder.name
    (folder / "fildes.toml").write_text(
        f'name = "{name}"\nruntime = "asgi"\nentry = "main:app"\nhosts = ["{name}.localhost"]\n'
    )
    program = textwrap.dedent(program)
    for word, value in words.items():
        program = program.replace(word, value)
    (folder / "main.py").write_text(program)
    return str(folder)


def programs(node: Node) -> set[int]:
    """The zygotes of the node: the interpreters among the children of its init."""
    return {pid for pid in traces.children(node.init) if traces.name(pid).startswith("python")}


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_the_serve_filter_nothing_comes_back(house: Node, tmp_path: Path) -> None:
    assert house.fildes("publish", make(tmp_path / "unfiltered", UNFILTERED), check=False).returncode
    text = house.fildes("logs", "unfiltered").stdout
    [answers] = [line.partition("TRIED ")[2].split() for line in text.splitlines() if "TRIED " in line]
    assert len(answers) == 36
    assert set(answers) <= {"EPERM", "EACCES", "ENOSYS", "ENOSPC"}, text


def test_a_conveyor_made_blocking_holds_nobody_up(node: Node, tmp_path: Path) -> None:
    node.fildes("publish", make(tmp_path / "blocking", BLOCKING))
    assert node.request(host="blocking.localhost").body == b"blocking"
    assert "removed" in node.fildes("rm", "blocking", timeout=10).stdout
    assert node.fildes("publish", make(tmp_path / "honest", HONEST), timeout=30).returncode == 0
    assert node.request(host="honest.localhost").body == b"honest"


@pytest.mark.parametrize(
    "words",
    [
        {"is": "loaded", "phases": {"import": "soon"}},
        {"is": "loaded", "phases": [1]},
        {"is": "loaded", "phases": {"import": float("nan"), "\x1b[2J": 1, "big": 1e308, "x" * 99: 1}},
        {"is": ["loaded"]},
        {"is": "failed", "error": {"a": [1]}, "detail": 7},
        {"is": "failed", "error": "\x1b[2J\x9b2Jcleared", "detail": "\x07"},
        {"is": "failed", "error": "\ud800 alone", "detail": "\udfff"},
    ],
    ids=str,
)
def test_no_word_leaves_a_program_loading_for_ever(house: Node, tmp_path: Path, words: object) -> None:
    folder = make(tmp_path / "loading", STILL_LOADING, WORDS=repr(words).replace("nan", "float('nan')"))
    before = programs(house)  # others' services may be warm on the node that tests share
    done = house.fildes("publish", folder, check=False)
    assert done.returncode != 0
    printed = done.stdout + done.stderr
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in printed if letter not in "\n\t")
    assert eventually(lambda: programs(house) <= before), "it runs on, and its gate is open"
    assert house.fildes("ps").stdout


def test_a_program_that_always_ends_in_order_is_halted(node: Node, tmp_path: Path) -> None:
    node.fildes("publish", make(tmp_path / "shirking", SHIRKING))
    connection = http.client.HTTPConnection(*node.addresses[0], timeout=15)
    with contextlib.closing(connection):
        connection.request("GET", "/", headers={"Host": "shirking.localhost"})
        assert connection.getresponse().status == 503
    assert "halted" in node.fildes("ps").stdout


def test_a_conveyor_that_was_shut_down_keeps_nobody_busy(node: Node, tmp_path: Path) -> None:
    node.fildes("publish", make(tmp_path / "shutting", SHUTTING))
    for _ in range(8):
        assert node.request(host="shutting.localhost").status in (502, 503)
    assert "halted" in node.fildes("ps").stdout
    orchestrator = node.daemons()["orchestrator"]
    before = cpu_seconds(orchestrator)
    time.sleep(1)  # the span that is measured
    assert cpu_seconds(orchestrator) - before < 0.1


def test_stop_ends_a_program_that_never_said_who_it_is(node: Node, tmp_path: Path) -> None:
    node.fildes("publish", make(tmp_path / "deaf", DEAF))
    before = programs(node)
    assert before
    assert "1 instance ended" in node.fildes("stop", "deaf", timeout=20).stdout
    assert eventually(lambda: not before & programs(node))


@pytest.mark.parametrize(
    "flood",
    [
        'access(b"/", 0)',
        'control.send(b"[" * 60000)',
        'control.send(b\'{"is": "exited", "status": 0}\')',
    ],
)
def test_a_flood_does_not_use_up_the_orchestrator(node: Node, tmp_path: Path, flood: str) -> None:
    # It may be ended for it before its first instance is ready: then it is not even published.
    node.fildes("publish", make(tmp_path / "flooding", FLOODING, FLOOD=flood), check=False)
    assert node.request(host="flooding.localhost").status in (200, 404, 502, 503)
    orchestrator = node.daemons()["orchestrator"]
    before, began = cpu_seconds(orchestrator), time.monotonic()
    node.fildes("publish", make(tmp_path / "honest", HONEST))
    assert node.request(host="honest.localhost").body == b"honest"
    time.sleep(max(0.0, began + 2 - time.monotonic()))  # the span that is measured
    assert (cpu_seconds(orchestrator) - before) / (time.monotonic() - began) < 0.5


def test_what_a_zygote_keeps_uses_up_nobodys_descriptors(node: Node, tmp_path: Path) -> None:
    node.fildes("publish", make(tmp_path / "hoarding", HOARDING))

    def held() -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (node.init, *node.daemons().values()))

    def started() -> int:
        return int(json.loads(node.fildes("ps", "--json").stdout)["services"][0]["starts"])

    for _ in range(20):
        assert node.request(host="hoarding.localhost").status == 200
        assert eventually(lambda: "warm" in node.fildes("ps").stdout)
    before = held()
    for _ in range(20):
        assert node.request(host="hoarding.localhost").status == 200
        assert eventually(lambda: "warm" in node.fildes("ps").stdout)
    assert started() > 30
    assert held() < before + 10


def test_of_a_proxys_connection_a_program_gets_its_own_requests(
    start_node: Callable[..., Node], tmp_path: Path
) -> None:
    """What comes next on it may be another client's, and meant for another owner."""
    node = start_node(arguments=["--proxy", "127.0.0.0/8"])
    for name in ("first", "second"):
        node.fildes("publish", make(tmp_path / name, HONEST.replace("honest", f"I am {name}")))
    first, second = (b"GET / HTTP/1.1\r\nHost: %b.localhost\r\n\r\n" % name for name in (b"first", b"second"))
    with socket.create_connection(node.addresses[0], timeout=15) as client:
        for piece, answers in ((first + second, [b"first", b"second"]), (second, [b"second"]), (first, [b"first"])):
            client.sendall(piece)
            said = b""
            while len(found := re.findall(rb"I am (first|second)", said)) < len(answers):
                more = client.recv(65536)
                assert more, said
                said += more
            assert found == answers


def test_releases_share_no_description(house: Node, tmp_path: Path) -> None:
    """What two of them hold has a position and flags of its own, also where it is the same file."""
    program = HONEST.replace('b"honest"', "positions(scope)") + POSITIONS
    for name in ("one", "other"):
        house.fildes("publish", make(tmp_path / name, program))
    house.request("/move", host="one.localhost")
    moved = house.request("/", host="one.localhost").body.split()
    assert moved.count(b"7") > 0
    assert b"7" not in house.request("/", host="other.localhost").body.split()
