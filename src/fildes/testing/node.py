"""A real `fildes up` for the length of a `with` block.

    with Node() as node:
        node.fildes("publish", "examples/guestbook")
        assert node.request("/", host="guestbook.localhost").status == 200

At the end of the block the node is told to end, and whatever is left of it (a process, a cgroup, a mount, its control
socket) is an error.
"""

from __future__ import annotations

import http.client
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from fildes.kernel.process import set_parent_death_signal
from fildes.testing import traces

START_TIME = 30.0  # seconds
STOP_TIME = 8.0


class NodeFailed(Exception):
    """`fildes up` ended, or was not serving in time; what it printed is in the text."""


class Leftovers(AssertionError):
    """Something of a node was still there after its end."""


class Response(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Node:
    """`arguments` go to `fildes up`; `launcher` is how `fildes` is run (another interpreter, another user).

    A state directory that was not given is made, and removed at the end.
    """

    def __init__(
        self,
        state: Path | None = None,
        *,
        http: Sequence[str] = ("127.0.0.1:0",),
        arguments: Sequence[str] = (),
        launcher: Sequence[str] = (sys.executable, "-m", "fildes.cli"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._own_state = state is None
        self.state = state or Path(tempfile.mkdtemp(prefix="fildes-test-"))
        self._arguments = [*(word for address in http for word in ("--http", address)), *arguments]
        self.launcher = list(launcher)
        self._environment = {**os.environ, **(environment or {}), "FILDES_STATE": str(self.state)}
        self._process: subprocess.Popen[bytes] | None = None
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._traces = traces.Traces(self.state)
        self.start_seconds = 0.0

    # — life —

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            if value is not None:
                sys.stderr.write(f"--- the node printed:\n{self.output()}---\n")
            self._clean_up()

    def start(self) -> None:
        """Start it and wait until every daemon is ready. Raises NodeFailed."""
        ready, writer = os.pipe()
        began = time.monotonic()
        try:
            self._process = subprocess.Popen(
                [*self.launcher, "up", *self._arguments, "--ready-fd", str(writer)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                pass_fds=[writer],
                start_new_session=True,
                # A test run that is killed takes its nodes with it.
                preexec_fn=lambda: set_parent_death_signal(signal.SIGTERM),  # noqa: PLW1509 - one thread
            )
        finally:
            os.close(writer)
        try:
            readable, _, _ = select.select([ready], [], [], START_TIME)
            if not (readable and os.read(ready, 1)):
                why = "it ended" if readable else f"it was not serving within {START_TIME:g} s"
                self.stop(check=False)
                raise NodeFailed(f"{why}:\n{self.output()}")
        finally:
            os.close(ready)
        self.start_seconds = time.monotonic() - began
        self._traces.note(self.pid)

    def stop(self, *, check: bool = True) -> float:
        """End it in order; the seconds that took. Raises Leftovers, unless `check` is false."""
        process = self._process
        if process is None:
            return 0.0
        self._process = None
        if process.poll() is None:
            self._traces.note(process.pid)
            process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        try:
            process.wait(STOP_TIME)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Leftovers(f"`fildes up` did not end within {STOP_TIME:g} s:\n{self.output()}") from None
        took = time.monotonic() - began
        if check and (left := self._traces.left()):
            raise Leftovers("left behind by the node: " + "; ".join(left))
        return took

    def wait(self, timeout: float = STOP_TIME) -> int:
        """Wait until it ends by itself; its exit status. `stop` still checks what it left."""
        if self._process is None:
            raise NodeFailed("it was stopped before")
        return self._process.wait(timeout)

    def _clean_up(self) -> None:
        self._printed.close()
        if self._own_state:
            shutil.rmtree(self.state, ignore_errors=True)

    # — looking —

    @property
    def pid(self) -> int:
        """Of `fildes up`."""
        if self._process is None:
            raise NodeFailed("it is not running")
        return self._process.pid

    @property
    def init(self) -> int:
        """The pid of init, as seen from here."""
        [pid] = traces.children(self.pid)
        return pid

    def daemons(self) -> dict[str, int]:
        """The pids of the daemons that run, by name, as seen from here."""
        names = {pid: traces.name(pid) for pid in traces.children(self.init)}
        prefix = "fd-"
        return {name.removeprefix(prefix): pid for pid, name in names.items() if name.startswith(prefix)}

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it answers HTTP."""
        lines = (self.state / "http").read_text().split()
        return [(host.strip("[]"), int(port)) for host, _, port in (line.rpartition(":") for line in lines)]

    def left(self) -> list[str]:
        """What would be an error at the end, a sentence each."""
        return self._traces.left()

    def processes_left(self) -> list[int]:
        """Of those, the processes."""
        return self._traces.processes()

    def output(self) -> str:
        """All that `fildes up` and its daemons printed so far."""
        size = self._printed.seek(0, os.SEEK_END)
        return os.pread(self._printed.fileno(), size, 0).decode("utf-8", "replace")

    # — doing —

    def kill(self, daemon: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to a daemon; its pid."""
        pid = self.daemons()[daemon]
        os.kill(pid, number)
        return pid

    def fildes(self, *words: str, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run `fildes WORDS…` against this node."""
        done = subprocess.run(
            [*self.launcher, *words],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise NodeFailed(f"fildes {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def request(
        self,
        path: str = "/",
        *,
        host: str = "localhost",
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 15.0,
    ) -> Response:
        """One HTTP request on a connection of its own."""
        connection = http.client.HTTPConnection(*self.addresses[0], timeout=timeout)
        try:
            connection.request(method, path, body, {"Host": host, **(headers or {})})
            answer = connection.getresponse()
            return Response(answer.status, answer.headers, answer.read())
        finally:
            connection.close()
