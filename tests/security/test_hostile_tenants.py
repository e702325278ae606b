"""Programs published by the command line that try to get at what they were not granted, and tell what happened.

`tenant` is an instance as it should be: it holds descriptors, and what it asks out of habit is answered by the trap.
`rebel` has patched the runtime while it loaded, so that its instances never take the last step of confinement: what
refuses then is what the orchestrator did from outside, and that must be enough.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fildes.kernel.libc import NR
from fildes.testing import Node, eventually, write_program

# Says what an expression evaluates to, or the errno (or the name and text) of what it raised.
TENANT = """
import ctypes, errno, json, os, signal, socket, subprocess, sys, tempfile, time
libc = ctypes.CDLL(None, use_errno=True)
root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)      # kept from the time of loading
app_dir = os.open("/app", os.O_RDONLY | os.O_DIRECTORY)
kept_file = os.open("/etc/passwd", os.O_RDONLY)        # the view's own
loaded_listing = os.listdir("/")

def call(number, *arguments):
    ctypes.set_errno(0)
    arguments = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    value = libc.syscall(ctypes.c_long(number), *arguments)
    return value if value != -1 else "-" + errno.errorcode.get(ctypes.get_errno(), "?")

def evaluate(text):
    try:
        return eval(text, globals())
    except OSError as error:
        return f"-{errno.errorcode.get(error.errno, error.errno)}: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = (await receive())["body"].decode()
    await answer(send, json.dumps(evaluate(body), default=repr))
"""

# No filter of its own, no trap, and a serving loop that asks the kernel directly.
REBEL = """
import select
import fildes.kernel.seccomp, fildes.runtime.asgi, fildes.runtime.files, fildes.runtime.trap, fildes.zygote.server
fildes.zygote.server.usable = lambda: False  # Python locks then, which can be left out
from fildes.kernel.fds import receive_with_fds, send_with_fds
from fildes.wire import conveyor as wire

fildes.kernel.seccomp.install = lambda *_, **__: None
fildes.runtime.trap.activate = lambda *_, **__: None
fildes.runtime.files.activate = lambda *_, **__: None

def serve(program, kit, lock):
    send_with_fds(kit.handle, b"R")
    while True:
        select.select([kit.conveyor], [], [])
        received = receive_with_fds(kit.conveyor, wire.MAX_DATAGRAM, wire.MAX_CONNECTIONS)
        if not received.data:
            return 0
        for connection, fd in zip(wire.decode_inward(received.data, len(received.fds)), received.fds):
            send_with_fds(kit.conveyor, wire.encode_done([connection.serial]))
            head, _, body = connection.head.partition(b"\\r\\n\\r\\n")
            if b"POST" in head:
                while not body:
                    select.select([fd.fileno()], [], [])
                    body = os.read(fd.fileno(), 65536)
            text = json.dumps(evaluate(body.decode()), default=repr).encode()
            head = b"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(text)
            os.write(fd.fileno(), head + text)
            fd.close()

fildes.runtime.asgi.serve = serve
"""


@pytest.fixture(scope="module")
def stage(house: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    above = tmp_path_factory.mktemp("hostile")
    house.fildes("publish", str(write_program(above, "tenant", TENANT)))
    house.fildes("publish", str(write_program(above, "rebel", TENANT + REBEL)))
    yield house
    for name in ("tenant", "rebel"):
        house.fildes("rm", name)


@pytest.fixture(params=["tenant", "rebel"])
def who(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(node: Node, who: str, expression: str) -> object:
    answer = node.request("/", host=f"{who}.localhost", method="POST", body=expression.encode())
    assert answer.status == 200, (answer.status, answer.body)
    return json.loads(answer.body)


def call(name: str, *arguments: str) -> str:
    """An expression: the system call itself, past everything that Python or the C library would do."""
    return f"call({', '.join([str(NR[name]), *arguments])})"


BUFFER = "ctypes.addressof(ctypes.create_string_buffer(16))"

# What nobody gets, by any way: expressions, and how the answers to `tenant` and `rebel` may begin.
REFUSED = {
    'open("/etc/shadow").read()': ("-ENOENT", "-EPERM"),
    'open("main.py").read() and 0 or open("/proc/self/status")': ("-ENOENT", "-EPERM"),
    'os.listdir("/proc")': ("-ENOENT", "-EPERM"),
    "os.listdir(root)": ("-ENOTDIR", "-EPERM"),
    "os.listdir(app_dir)": ("-ENOTDIR", "-EPERM"),
    'os.open("etc/passwd", 0, dir_fd=root)': ("-ENOTDIR", "-EPERM"),
    "os.fchdir(root)": ("-ENOTDIR", "-EPERM"),
    'os.readlink("/proc/self/exe")': ("-ENOENT", "-EPERM"),
    "socket.socket()": ("-EACCES",) * 2,
    "socket.socket(socket.AF_UNIX)": ("-EACCES",) * 2,
    'socket.create_connection(("127.0.0.1", 80), 1)': ("-EACCES",) * 2,
    "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)": ("-EAFNOSUPPORT",) * 2,
    "os.fork()": ("-EPERM",) * 2,
    'os.execv("/bin/sh", ["sh"])': ("-EPERM",) * 2,
    'subprocess.run(["/bin/true"])': ("-EPERM",) * 2,
    "os.kill(1, 9)": ("-EPERM",) * 2,
    "os.kill(-1, 0)": ("-EPERM",) * 2,
    "os.kill(os.getpid(), 0)": ("-EPERM",) * 2,
    "os.pidfd_open(1)": ("-EPERM",) * 2,
    "os.setuid(0)": ("-EPERM",) * 2,
    "os.sched_setaffinity(0, [0])": ("-EPERM",) * 2,
    call("openat", "root", 'b"etc/passwd"', "0"): ("-ENOTDIR", "-EPERM"),
    call("ptrace", "16", "1", "0", "0"): ("-EPERM",) * 2,
    call("process_vm_readv", "1", "0", "0", "0", "0", "0"): ("-EPERM",) * 2,
    call("pidfd_getfd", "0", "0", "0"): ("-EPERM",) * 2,
    call("kcmp", "1", "1", "0", "0", "0"): ("-EPERM",) * 2,
    call("unshare", "0x10000000"): ("-EPERM",) * 2,
    call("setns", "root", "0"): ("-EPERM",) * 2,
    call("mount", 'b"x"', 'b"/"', 'b"tmpfs"', "0", "0"): ("-EPERM",) * 2,
    call("chroot", 'b"/"'): ("-EPERM",) * 2,
    call("name_to_handle_at", "root", 'b"etc"', "0", "0", "0"): ("-EPERM",) * 2,
    call("open_by_handle_at", "root", "0", "0"): ("-EPERM",) * 2,
    call("clone", "17", "0", "0", "0", "0"): ("-EPERM",) * 2,
    call("clone", "0x10000011", "0", "0", "0", "0"): ("-EPERM",) * 2,
    call("clone3", "0", "0"): ("-ENOSYS",) * 2,
    call("execveat", 'os.memfd_create("y")', 'b""', "0", "0", "0x1000"): ("-EPERM",) * 2,
    call("io_uring_setup", "8", "0"): ("-ENOSYS",) * 2,
    call("bpf", "0", "0", "0"): ("-EPERM",) * 2,
    call("userfaultfd", "0"): ("-EPERM",) * 2,
    call("perf_event_open", "0", "0", "-1", "-1", "0"): ("-EPERM",) * 2,
    call("keyctl", "0", "0"): ("-EPERM",) * 2,
    call("shmget", "0", "100", "0o1000"): ("-EPERM",) * 2,
    call("mq_open", 'b"x"', "0", "0", "0"): ("-EPERM",) * 2,
    call("mmap", "0", "4096", "7", "0x22", "-1", "0"): ("-EPERM",) * 2,
    call("mprotect", "0", "4096", "4"): ("-EPERM",) * 2,
    call("prctl", "26", "1"): ("-EPERM",) * 2,  # PR_SET_TSC, enable
    call("prctl", "4", "1"): ("-EPERM",) * 2,  # PR_SET_DUMPABLE
    call("tgkill", "1", "1", "9"): ("-EPERM",) * 2,
    call("rt_sigqueueinfo", "1", "9", "0"): ("-EPERM",) * 2,
    call("setrlimit", "7", "0") if "setrlimit" in NR else "'-EPERM'": ("-EPERM",) * 2,
    call("socket", "16", "3", "0"): ("-EACCES",) * 2,  # netlink
    call("timerfd_create", "0", "0"): ("-EPERM",) * 2,
    call("signalfd4", "-1", "0", "8", "0"): ("-EPERM",) * 2,
    call("clock_gettime", "0", BUFFER): ("-EPERM",) * 2,
    call("getrandom", BUFFER, "8", "0"): ("-EACCES", "-EPERM"),
    f'call(0x40000000 | {NR["openat"]}, root, b"etc/passwd", 0)': ("-ENOSYS",) * 2,  # the x32 table
}


def test_what_nobody_gets(stage: Node, who: str) -> None:
    at = ("tenant", "rebel").index(who)
    answers = {expression: ask(stage, who, expression) for expression in REFUSED}
    wrong = {e: a for e, a in answers.items() if not str(a).startswith(REFUSED[e][at])}
    assert wrong == {}
    assert stage.request("/", host="tenant.localhost", method="POST", body=b"1 + 1").body == b"2"


def test_there_was_little_to_see_while_it_loaded(stage: Node, who: str) -> None:
    seen = ask(stage, who, "loaded_listing")
    assert isinstance(seen, list)
    allowed = {"app", "deps", "dev", "etc", "fildes", "lib", "lib64", "tmp", "usr"}
    prefix = os.path.realpath(sys.base_prefix).split("/")[1]  # an interpreter outside /usr
    assert set(seen) <= allowed | {prefix}
    # The one file of /etc that it could keep is the view's own.
    assert "root" not in str(ask(stage, who, "os.read(kept_file, 4096).decode()"))


def test_the_instances_see_their_packs_and_nothing_else(stage: Node) -> None:
    listing = ask(stage, "tenant", 'os.listdir("/")')
    assert isinstance(listing, list) and "proc" not in listing and "dev" not in listing
    assert ask(stage, "tenant", 'sorted(os.listdir("/app"))') == ["__pycache__", "fildes.toml", "main.py"]
    real = {line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines()}
    shown = str(ask(stage, "tenant", 'open("/etc/passwd").read()'))
    assert {line.split(":")[0] for line in shown.split()} & real == set()


@pytest.mark.parametrize(
    ("expression", "grant"),
    [
        ("time.time()", "[grants.clock]"),
        ("time.strftime('%Y')", "[grants.clock]"),
        ("__import__('datetime').datetime.now()", "[grants.clock]"),
        ("os.urandom(4)", "[grants.random]"),
        ("__import__('random').SystemRandom().random()", "[grants.random]"),
        ("socket.create_connection(('example.org', 80))", 'kind = "connect"'),
        ("open('/usr/share/dict/words')", "[grants.files]"),
    ],
)
def test_a_refusal_names_the_grant(stage: Node, expression: str, grant: str) -> None:
    answer = str(ask(stage, "tenant", expression))
    assert answer.startswith("-") and grant in answer


# — at the zygote's place —

GREEDY = """
import os
from fildes.zygote import forking, server
server.usable = lambda: False  # Python forks then, which can be replaced
import re
import sys
real_fork = forking.fork

def fork():
    pid = real_fork()
    if pid:
        for _ in range(3):
            try:
                if real_fork() == 0:
                    print("BREACH: a second one was forked", flush=True)
                    os._exit(0)
                print("BREACH: it forked", flush=True)
            except OSError as error:
                print(f"one more: {error}", flush=True)
    return pid

forking.fork = fork
"""

FORGER = """
import os
import re
import sys
from fildes.kernel.fds import send_with_fds
from fildes.wire import zygote as wire
from fildes.zygote import forking, server
server.usable = lambda: False  # Python forks then, which can be replaced
real_fork = forking.fork
reader, writer = os.pipe()

def fork():
    pid = real_fork()
    if pid:
        for message in ({"is": "born"}, {"is": "confined"}, {"is": "loaded"}, {"is": "failed", "error": "x" * 30000},
                        {"is": "exited", "instance": "somebody", "status": 0}, {"is": "exited"}, {"is": 7}, {}):
            for fds in ([], [reader], [reader, writer], [reader] * 20):
                try:
                    send_with_fds(3, wire.encode(message), fds)
                except OSError as error:
                    print(error)
        for data in (b"x", b"\\\\xff" * 9999, bytes(100)):
            send_with_fds(3, data)
        print("forged", flush=True)
    return pid

forking.fork = fork
"""


def test_one_fork_for_one_order(stage: Node, tmp_path: Path) -> None:
    stage.fildes("publish", str(write_program(tmp_path, "greedy", GREEDY)))
    assert stage.request("/", host="greedy.localhost").body == b"ok"
    log = eventually(lambda: text if (text := stage.fildes("logs", "greedy").stdout).count("one more") >= 3 else "")
    assert len(re.findall("one more: .*Operation not permitted", log)) == 3 and "BREACH" not in log
    stage.fildes("rm", "greedy")


def test_forged_words_to_the_orchestrator(stage: Node, tmp_path: Path) -> None:
    pid = stage.daemons()["orchestrator"]
    before = len(os.listdir(f"/proc/{pid}/fd"))
    stage.fildes("publish", str(write_program(tmp_path, "forger", FORGER)), check=False)
    eventually(lambda: "forged" in stage.fildes("logs", "forger").stdout)
    assert stage.request("/", host="forger.localhost").body == b"ok"
    stage.fildes("rm", "forger")
    assert stage.daemons()["orchestrator"] == pid
    eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before, 15, "what it sent along is closed")


def test_it_says_that_it_is_loaded_and_goes_on_loading(stage: Node, tmp_path: Path) -> None:
    source = """
    from fildes.kernel.fds import send_with_fds
    from fildes.wire import zygote as wire
    send_with_fds(3, wire.encode({"is": "loaded", "phases": {}}))
    for _ in range(1_000_000):
        try:
            open("/app/main.py").close()
        except PermissionError:
            print("the ratchet has turned", flush=True)
            break
    open("/app/main.py")
    """
    done = stage.fildes("publish", str(write_program(tmp_path, "early", source)), check=False)
    assert done.returncode == 1, done.stdout
    assert "early did not" in done.stderr
    eventually(lambda: "the ratchet has turned" in stage.fildes("logs", "early").stdout)


# — at an instance's place —


def test_noise_on_the_conveyor_and_on_the_handle(stage: Node, tmp_path: Path) -> None:
    """It costs the release its conveyor for a moment, and nobody else anything."""
    web, orchestrator = stage.daemons()["web"], stage.daemons()["orchestrator"]
    source = REBEL.replace(
        'send_with_fds(kit.handle, b"R")',
        """send_with_fds(kit.handle, b"R")
    reader, writer = os.pipe()
    for word in (b"U", b"R", b"X" * 60, b"I"):
        for fds in ([], [reader], [reader] * 9):
            try:
                send_with_fds(kit.handle, word, fds)
            except OSError as error:
                print(error, flush=True)
    for data, fds in ((b"T", []), (b"D" + bytes(64), []), (b"?", []), (b"B" + bytes(8), [reader]), (bytes(9000), [])):
        try:
            send_with_fds(kit.conveyor, data, fds)
        except OSError as error:
            print(error, flush=True)""",
    )
    folder = write_program(tmp_path, "noisy", TENANT + source)
    stage.fildes("publish", str(folder))
    for _ in range(20):
        assert ask(stage, "tenant", "1 + 1") == 2
    # The door reads it when it first has a connection for the release.
    assert stage.request("/", host="noisy.localhost", method="POST", body=b"1 + 1").status in (200, 503)
    eventually(lambda: "conveyor of release" in stage.fildes("logs", "noisy").stdout)
    assert ask(stage, "noisy", "1 + 1") == 2
    assert (stage.daemons()["web"], stage.daemons()["orchestrator"]) == (web, orchestrator)
    stage.fildes("rm", "noisy", check=False)


@pytest.mark.root
def test_anonymous_files_count_against_the_limit(stage: Node, tmp_path: Path) -> None:
    folder = write_program(tmp_path, "hoarder", TENANT, '[limits]\nmemory = "64MiB"\n')
    stage.fildes("publish", str(folder))
    body = b"[os.write(os.memfd_create('m'), bytes(1 << 20)) for _ in range(400)]"
    answer = stage.request("/", host="hoarder.localhost", method="POST", body=body)
    assert answer.status == 502
    [found] = json.loads(stage.fildes("ps", "hoarder", "--json").stdout)["services"]
    assert "more memory than [limits] memory allows" in found["note"]
    stage.fildes("rm", "hoarder")
    assert ask(stage, "tenant", "1 + 1") == 2


def test_descriptors_without_end(stage: Node) -> None:
    answer = str(ask(stage, "tenant", "[os.dup(0) for _ in range(10**6)]"))
    assert answer.startswith("-EMFILE")
    assert ask(stage, "rebel", "1 + 1") == 2
    stage.fildes("stop", "tenant")
    assert ask(stage, "tenant", "1 + 1") == 2
