"""The steps of confinement, taken on the real kernel around a program that is asked to break out.

The program is an interpreter that evaluates what it is sent: whatever a tenant's code could try, it tries.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fildes.kernel import mounts, namespaces, notify, process
from fildes.kernel.fds import Fd, receive_with_fds, send_with_fds
from fildes.kernel.libc import NR
from fildes.sandbox import profile
from fildes.sandbox.enter import launch
from fildes.sandbox.plan import Plan
from fildes.sandbox.steps import CONTROL
from fildes.sandbox.view import Bind, Directory, Entry, File, Filesystem, Link
from fildes.testing import forked, traces

UID = 61234

# Says what each line evaluates to, or the errno (or the name) of what it raised.
PROGRAM = f"""
import ctypes, errno, json, os, resource, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, {CONTROL})
def call(number, *arguments):
    ctypes.set_errno(0)
    value = libc.syscall(number, *[ctypes.c_long(a) for a in arguments])
    return value if value != -1 else f"-{{errno.errorcode[ctypes.get_errno()]}}"
def forks():
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
while line := sock.recv(65536):
    try:
        answer = eval(line)
    except OSError as error:
        answer = f"-{{errno.errorcode.get(error.errno, error)}}"
    except BaseException as error:
        answer = f"{{type(error).__name__}}: {{error}}"
    sock.send(json.dumps(answer, default=repr).encode())
"""


def interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def public_interpreter() -> str:
    """One that every user may run; PROGRAM needs no version."""
    if not sys.base_prefix.startswith(("/root", "/home")):
        return interpreter()
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("every interpreter here is out of an ordinary user's reach")
    return os.path.realpath("/usr/bin/python3")


def view(folder: Path, python: str) -> tuple[Entry, ...]:
    entries: list[Entry] = [Bind("/usr/lib", "/usr/lib"), Bind("/app", str(folder))]
    for name in ("/lib", "/lib64", "/usr/lib64"):
        if not os.path.exists(name):
            continue
        entries.append(Link(name, os.readlink(name)) if os.path.islink(name) else Bind(name, name))
    if python.startswith(("/usr/bin/", "/bin/")):
        entries.append(Bind(python, python))
    else:
        entries.append(Bind(sys.base_prefix, os.path.realpath(sys.base_prefix)))
    return (
        *entries,
        Bind("/dev/null", "/dev/null", devices=True),
        Filesystem("/tmp", "tmpfs", (("mode", "1777"), ("size", "1m"))),
        File("/etc/hosts", "127.0.0.1 localhost\n"),
        Directory("/empty"),
    )


class Confined:
    """A program behind its listener, and the test in the orchestrator's place."""

    def __init__(self, plan: Plan) -> None:
        self.gate, self.execs, self.forks = True, 1, 0
        self.vdso: list[list[int]] | None = None
        self.listener: Fd | None = None
        self.pidfd: Fd | None = None
        self.failed = ""
        program = profile.compile(profile.load(plan.profile))
        launcher, self.control = launch(plan, program, log=2, cgroup=None, encode=encode)
        try:
            while not (self.listener and self.pidfd) and not self.failed:
                self._hear()
            self._await_launcher(launcher)
            while not self.failed and self.vdso is None:
                self._hear()
            if not self.failed:
                self.ask("'loaded'")
        except BaseException:
            self.close()
            raise

    def _hear(self) -> None:
        assert select.select([self.control.fileno()], [], [], 20)[0], "the launcher says nothing"
        received = receive_with_fds(self.control.fileno())
        message = json.loads(received.data) if received.data else {"is": "failed", "error": "it ended"}
        if message["is"] == "born":
            (self.pidfd,) = received.fds
        elif message["is"] == "confined":
            (self.listener,) = received.fds
        elif message["is"] == "hidden":
            self.vdso = message["vdso"]
        else:
            self.failed = f"{message['error']}"

    def _await_launcher(self, pid: int) -> None:
        """It ends once the exec is through, which waits for us."""
        with process.pidfd_open(pid) as pidfd:
            self._serve(pidfd.fileno())
        os.waitpid(pid, 0)

    def _serve(self, until: int) -> None:
        """Answer notifications until the descriptor `until` is readable."""
        watched = [until, *([self.listener.fileno()] if self.listener else [])]
        while True:
            readable, _, _ = select.select(watched, [], [], 20)
            assert readable, "nothing happened within 20 s"
            if until in readable:
                return
            self._answer()

    def _answer(self) -> None:
        assert self.listener is not None
        notification = notify.receive(self.listener.fileno())
        if notification is None:
            return
        if notification.nr == NR["execve"]:
            self.execs -= 1
        if self.gate and self.execs >= 0:
            notify.proceed(self.listener.fileno(), notification.id)
        elif self.forks and notification.nr in (NR["clone"], NR.get("fork")):
            self.forks -= 1
            notify.proceed(self.listener.fileno(), notification.id)
        else:
            notify.refuse(self.listener.fileno(), notification.id, errno.EPERM)

    def ask(self, line: str) -> Any:
        send_with_fds(self.control.fileno(), line.encode())
        self._serve(self.control.fileno())
        return json.loads(receive_with_fds(self.control.fileno()).data)

    @property
    def pid(self) -> int:
        assert self.pidfd is not None
        return process.pidfd_pid(self.pidfd.fileno())

    def turn_the_ratchet(self) -> None:
        self.gate = False
        assert self.pidfd is not None
        pidfd = self.pidfd.fileno()
        points = [p for p in reversed(mount_points(self.pid)) if p != "/"]
        user = 0 if same_user_namespace(self.pid) else namespaces.CLONE_NEWUSER

        def detach() -> None:
            namespaces.setns(pidfd, namespaces.CLONE_NEWNS | user)
            for point in points:
                mounts.detach(point)

        forked.run(detach, keep={pidfd})

    def close(self) -> None:
        if self.pidfd is not None and not self.pidfd.closed:
            process.pidfd_send_signal(self.pidfd.fileno(), signal.SIGKILL)
            select.select([self.pidfd.fileno()], [], [], 20)
            with contextlib.suppress(ChildProcessError):
                if (pid := self.pid) > 0:  # else the launcher has reaped it
                    os.waitpid(pid, 0)
        for fd in (self.control, self.listener, self.pidfd):
            if fd is not None:
                fd.close()


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


def mount_points(pid: int) -> list[str]:
    return mounts.mount_points(Path(f"/proc/{pid}/mountinfo").read_text())


def same_user_namespace(pid: int) -> bool:
    return os.readlink("/proc/self/ns/user") == os.readlink(f"/proc/{pid}/ns/user")


def plan_for(folder: Path, python: str = "", **changes: Any) -> Plan:
    python = python or interpreter()
    (folder / "app").mkdir()
    (folder / "app" / "main.py").write_text(PROGRAM)
    (folder / "app" / "later.py").write_text("VALUE = 5\n")
    (folder / "mountpoint").mkdir()
    folder.chmod(0o755)
    settings: dict[str, Any] = {
        "view": view(folder / "app", python),
        "mountpoint": str(folder / "mountpoint"),
        "profile": "load",
        "arguments": (python, "-I", "-S", "-B", "/app/main.py"),
        "environment": (("PATH", "/usr/bin"),),
        "cwd": "/app",
        "uid": UID if os.geteuid() == 0 else None,
    }
    return Plan(**settings | changes)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Confined]]:
    with contextlib.ExitStack() as stack:

        def begin(**changes: Any) -> Confined:
            confined = Confined(plan_for(tmp_path, **changes))
            stack.callback(confined.close)
            return confined

        yield begin


def test_what_it_holds_and_who_it_is(start: Callable[..., Confined]) -> None:
    confined = start()
    assert not confined.failed
    assert sorted(map(int, os.listdir(f"/proc/{confined.pid}/fd"))) == [0, 1, 2, CONTROL]
    assert confined.ask("os.getpid()") == 1
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{confined.pid}/status").read_text().splitlines())
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    if os.geteuid() == 0:
        assert int(status["CapBnd"], 16) == 0
        assert status["Uid"].split() == status["Gid"].split() == [str(UID)] * 4
        assert status["Groups"].split() == []
    for kind in ("mnt", "pid", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{confined.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    assert confined.ask("resource.getrlimit(resource.RLIMIT_CORE)") == [0, 0]
    assert confined.ask("dict(os.environ).keys() <= {'PATH', 'LC_CTYPE'}") is True


def test_what_it_sees_while_it_loads(start: Callable[..., Confined]) -> None:
    confined = start()
    assert confined.ask("sorted(os.listdir('/'))") == sorted(
        {"app", "dev", "empty", "etc", "lib", "lib64", "tmp", "usr", sys.base_prefix.split("/")[1]}
    )
    assert confined.ask("os.listdir('/etc'), os.listdir('/dev')") == [["hosts"], ["null"]]
    assert confined.ask("open('/app/later.py').read()") == "VALUE = 5\n"
    assert confined.ask("open('/tmp/x', 'w').write('scratch')") == 7
    for path in ("/new", "/app/new", "/usr/lib/new", "/etc/hosts", "/empty/new"):
        assert confined.ask(f"open({path!r}, 'w')") in ("-EROFS", "-EACCES")
    assert confined.ask("__import__('wave').__name__") == "wave"
    assert confined.ask("time.time() > 0 and len(os.urandom(4)) == 4") is True


ESCAPES = {
    "socket.socket()": "-EACCES",
    "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)": "-EACCES",
    "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)": "-EAFNOSUPPORT",
    "os.kill(1, 9)": "-EPERM",
    "os.setuid(0)": "-EPERM",
    "os.setgroups([0])": "-EPERM",
    "os.mkfifo('/tmp/f')": "-EPERM",
    "os.chroot('/app')": "-EPERM",
    "os.sched_setaffinity(0, {0})": "-EPERM",
    "os.nice(1)": "-EPERM",
    "resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))": "ValueError: not allowed to raise maximum limit",
    "signal.setitimer(signal.ITIMER_REAL, 1)": "-EPERM",
    f"call({NR['unshare']}, {namespaces.CLONE_NEWUSER})": "-EPERM",
    f"call({NR['setns']}, 0, 0)": "-EPERM",
    f"call({NR['clone']}, {namespaces.CLONE_NEWUSER} | 17, 0, 0, 0, 0)": "-EPERM",
    f"call({NR['clone3']}, 0, 0)": "-ENOSYS",
    f"call({NR['ptrace']}, 0, 0, 0, 0)": "-EPERM",
    f"call({NR['process_vm_readv']}, 1, 0, 0, 0, 0, 0)": "-EPERM",
    f"call({NR['pidfd_getfd']}, 0, 0, 0)": "-EPERM",
    f"call({NR['pidfd_open']}, 1, 0)": "-EPERM",
    f"call({NR['mount']}, 0, 0, 0, 0, 0)": "-EPERM",
    f"call({NR['fsopen']}, 0, 0)": "-EPERM",
    f"call({NR['io_uring_setup']}, 8, 0)": "-ENOSYS",
    f"call({NR['bpf']}, 0, 0, 0)": "-EPERM",
    f"call({NR['keyctl']}, 0, -3, 0, 0, 0)": "-EPERM",
    f"call({NR['userfaultfd']}, 0)": "-EPERM",
    f"call({NR['perf_event_open']}, 0, 0, 0, 0, 0)": "-EPERM",
    f"call({NR['timerfd_create']}, 0, 0)": "-EPERM",
    f"call({NR['memfd_secret']}, 0)": "-EPERM",
    f"call({NR['shmget']}, 0, 4096, 512)": "-EPERM",
    f"call({NR['prctl']}, 26, 1, 0, 0, 0)": "-EPERM",  # PR_SET_TSC, PR_TSC_ENABLE
    f"call({NR['prctl']}, 22, 0, 0, 0, 0)": "-EPERM",  # PR_SET_SECCOMP
    f"call({NR['seccomp']}, 1, 8, 0)": "-EPERM",  # a listener
}


@pytest.mark.parametrize("turned", [False, True], ids=["loading", "after the ratchet"])
def test_what_is_refused_for_good(start: Callable[..., Confined], turned: bool) -> None:
    confined = start()
    if turned:
        confined.turn_the_ratchet()
    assert {line: confined.ask(line) for line in ESCAPES} == ESCAPES


def test_the_ratchet(start: Callable[..., Confined]) -> None:
    confined = start()
    assert confined.ask("globals().setdefault('held', open('/app/later.py')).name") == "/app/later.py"
    assert confined.ask("globals().setdefault('root', os.open('/', os.O_RDONLY)) > 0") is True
    assert confined.ask("forks()") == 7
    confined.turn_the_ratchet()
    for line in (
        "os.stat('/app')",
        "os.listdir('/')",
        "os.listdir(root)",
        "os.open('app', os.O_RDONLY, dir_fd=root)",
        "open('/tmp/x', 'w')",
        "os.getcwd()",
        "os.urandom(4)",
        "time.time()",
        "time.clock_gettime(time.CLOCK_MONOTONIC)",
        "time.clock_gettime(5)",  # CLOCK_REALTIME_COARSE
        "time.clock_gettime(7)",
        "time.clock_gettime(2)",  # CLOCK_PROCESS_CPUTIME_ID
        f"call({NR['times']}, 0)",
        "os.uname()",
        "os.fork()",
        "os.execv('/app/later.py', ['x'])",
        "__import__('mmap').mmap(-1, 4096, prot=7)",
    ):
        answer = confined.ask(line)
        assert str(answer).startswith(("-EPERM", "-ENOENT", "ModuleNotFound", "ImportError", "OSError")), (line, answer)
    assert confined.ask("held.read()") == "VALUE = 5\n"  # a descriptor goes on being what it is
    assert confined.ask("time.clock_gettime(6) > 0") is True  # CLOCK_MONOTONIC_COARSE
    assert confined.ask("[a.send(b'x') for a, b in [socket.socketpair()]]") == [1]


def test_time_stays_hidden(start: Callable[..., Confined]) -> None:
    """The program unmaps what the launcher saw; the C library never knew it; and a second exec is not let through."""
    confined = start()
    assert confined.vdso
    maps = Path(f"/proc/{confined.pid}/maps")
    assert "[vvar]" in maps.read_text()
    for address, length in confined.vdso:
        assert confined.ask(f"call({NR['munmap']}, {address}, {length})") == 0
    assert "[vvar" not in maps.read_text()
    assert confined.ask("libc.getauxval(33)") == 0
    assert confined.ask("time.time() > 0") is True  # a call, which the orchestrator let through
    assert confined.ask("os.execv(sys.executable, [sys.executable, '-c', '0'])") == "-EPERM"
    assert confined.ask("os.listdir('/app')") != []  # other calls go on


def test_why_a_view_has_no_proc(start: Callable[..., Confined], tmp_path: Path) -> None:
    """A file of /proc that was opened while loading goes on telling the time after the ratchet: it is a descriptor."""
    with_proc = (*view(tmp_path / "app", interpreter()), Filesystem("/proc", "proc", read_only=True))
    confined = start(view=with_proc)
    assert confined.ask("globals().setdefault('uptime', open('/proc/uptime')).readline() > ''") is True
    confined.turn_the_ratchet()
    confined.ask("uptime.seek(0)")
    told = float(confined.ask("uptime.readline()").split()[0])
    assert abs(told - float(Path("/proc/uptime").read_text().split()[0])) < 5


def test_one_fork_for_one_order(start: Callable[..., Confined]) -> None:
    confined = start()
    confined.turn_the_ratchet()
    assert confined.ask("forks()") == "-EPERM"
    confined.forks = 1
    assert confined.ask("forks()") == 7
    assert confined.ask("forks()") == "-EPERM"
    assert confined.forks == 0


def test_views_are_gone_even_for_one_who_still_could_look(start: Callable[..., Confined]) -> None:
    """The two halves of the ratchet don't depend on each other: the gate opened again, there is nothing to see."""
    confined = start()
    assert confined.ask("globals().setdefault('app', os.open('/app', os.O_RDONLY)) > 0") is True
    confined.turn_the_ratchet()
    confined.gate = True
    assert confined.ask("[os.listdir(d) for d in ('/app', '/usr/lib', '/tmp')]") == [[], [], []]
    assert confined.ask("open('/dev/null').read()") == ""  # the placeholder file, no device
    assert mount_points(confined.pid) == ["/"]


def test_no_instance_outlives_its_zygote(start: Callable[..., Confined]) -> None:
    confined = start()
    assert confined.ask("os.fork() or signal.pause()") > 1
    (child,) = Path(f"/proc/{confined.pid}/task/{confined.pid}/children").read_text().split()
    with process.pidfd_open(int(child)) as pidfd:
        confined.close()
        assert select.select([pidfd.fileno()], [], [], 10)[0]


def test_a_step_that_fails_says_which(start: Callable[..., Confined]) -> None:
    confined = start(view=(Bind("/app", "/no/such/directory"),))
    assert confined.failed.startswith("a view of files, and nothing of the old one:")
    assert "/no/such/directory" in confined.failed


def test_a_plan_can_be_read_without_being_taken(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, uid=UID, limits="memory 64 MiB", networks=3, scopes=3)
    text = "\n".join(plan.describe())
    for words in (
        "a cgroup of its own: memory 64 MiB",
        "new namespaces: mount, net, pid, ipc, uts",
        "  /app read-only, from ",
        "  /tmp, a new tmpfs, mode=1777, size=1m",
        f"uid and gid {UID}, no other groups; no capabilities; no-new-privs",
        "Landlock: no TCP, no signals and no abstract sockets outward",
        "seccomp profile load",
        f"exec: {interpreter()}",
    ):
        assert words in text
    without = plan_for(tmp_path / "other", uid=None) if (tmp_path / "other").mkdir() is None else plan
    assert "new namespaces: user, mount, net, pid, ipc, uts" in without.describe()
    assert "the one user that there is; no capabilities; no-new-privs" in without.describe()
    assert without.outer() != plan.outer()
    assert plan.inner() == plan.inner()


def test_as_an_ordinary_user() -> None:
    """In a user namespace of its own: the same steps, one user, nothing that root would be needed for."""
    python = public_interpreter()
    folder = Path(tempfile.mkdtemp(prefix="fildes-test-"))  # not in tmp_path, which only we may enter
    plan = plan_for(folder, python, uid=None)

    def unprivileged() -> list[Any]:
        if os.geteuid() == 0:
            process.become(65534, 65534)
            process.set_dumpable(True)
        process.set_child_subreaper()
        confined = Confined(plan)
        try:
            confined.turn_the_ratchet()
            return [confined.failed, confined.ask("os.getpid()"), confined.ask("os.stat('/')")]
        finally:
            confined.close()

    try:
        assert forked.run(unprivileged) == ["", 1, "-EPERM"]
    finally:
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    def there() -> tuple[list[str], str, list[int]]:
        # A node that the session shares is a child that stays.
        return os.listdir("/proc/self/fd"), Path("/proc/self/mountinfo").read_text(), traces.children(os.getpid())

    before = there()
    process.set_child_subreaper()
    yield
    process.prctl("PR_SET_CHILD_SUBREAPER", process.PR_SET_CHILD_SUBREAPER, 0)
    assert there() == before
