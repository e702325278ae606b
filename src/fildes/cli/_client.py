"""The CLI's end of the control socket (wire/debug.py says what is spoken). Standard library only: `ps` is to be quick.

with Client(state) as node:
    value, fds = node.ask("ps", {"all": True})
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

from fildes.cli._shared import Trouble
from fildes.kernel import memfd
from fildes.kernel.fds import Fd, Truncated, close_all, receive_with_fds, send_with_fds
from fildes.wire import tenant as codec

_MAX_DATAGRAM: Final = 128 * 1024
_MAX_FDS: Final = 248
_LARGE: Final = 256 * 1024  # bytes of an answer from which the faster decoder is worth its import

Note = Callable[[str, str, float], object]  # phase, text, ms


class Refused(Trouble):
    """The node said no; `code` is for programs."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class Client:
    """A connection to the node of a state directory. Raises Trouble if there is none."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._socket = _connect(state)
        self._count = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(
        self, verb: str, body: dict[str, Any], fds: Sequence[Fd] = (), note: Note = lambda *_: None
    ) -> tuple[Any, list[Fd]]:
        """The answer's body and descriptors (the caller owns them). `fds` are consumed. Raises Trouble."""
        self._count += 1
        data = codec.pack({"type": "ask", "id": self._count, "verb": verb, "body": body})
        try:
            send_with_fds(self._socket.fileno(), data, [fd.fileno() for fd in fds])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it said why before it closed: that is read next
        finally:
            close_all(fds)
        while True:
            message, came = self._receive()
            kind = message.get("type")
            if kind == "note":
                close_all(came)
                note(message["phase"], message["text"], message["ms"])
            elif kind == "failed":
                close_all(came)
                raise Refused(_sentence(message), message["code"])
            elif kind == "answer":
                return self._body(message, came)
            else:
                close_all(came)
                raise Trouble(f"the node answers with {kind!r}, which this version does not know: use the node's own")

    def _receive(self) -> tuple[dict[str, Any], list[Fd]]:
        for attempt in (1, 2):
            try:
                received = receive_with_fds(self._socket.fileno(), _MAX_DATAGRAM, _MAX_FDS)
                break
            except ConnectionResetError:
                # It closed without reading what we sent; what it had said before is still there (unix(7)).
                if attempt == 2:
                    received = None
            except Truncated as error:
                raise Trouble(f"the node's answer did not fit: {error}") from error
        if received is None or not received.data:
            raise Trouble(f"the node closed the connection before it answered: ask again, or see: {self._hint()}")
        message = codec.unpack(received.data)
        if not isinstance(message, dict):
            raise Trouble("the node answers in a protocol that this version does not know: use the node's own")
        return message, received.fds

    def _hint(self) -> str:
        return f"fildes ps --all --state {self._state}"

    def _body(self, message: dict[str, Any], came: list[Fd]) -> tuple[Any, list[Fd]]:
        if not message.get("memfd"):
            return message["body"], came
        with came.pop() as sealed:
            return _unpack(memfd.read_sealed(sealed.fileno())), came


def _connect(state: str) -> socket.socket:
    # A socket's path holds 107 bytes: the state directory is reached through a descriptor.
    try:
        directory = Fd.open(state, os.O_PATH | os.O_DIRECTORY)  # an owner may pass through, and not look around
    except OSError as error:
        raise Trouble(f"--state {state}: {error.strerror}; start a node there: fildes up --state {state}") from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with directory:
            sock.connect(f"/proc/self/fd/{directory.fileno()}/control")
    except (FileNotFoundError, ConnectionRefusedError) as error:
        sock.close()
        raise Trouble(f"no node runs on {state}; start one: fildes up --state {state}") from error
    except OSError as error:
        sock.close()
        raise Trouble(f"{state}/control: {error.strerror}; ask as root, or as the user who ran `fildes up`") from error
    return sock


def _sentence(message: dict[str, Any]) -> str:
    grant = message.get("grant")
    if not grant:
        return str(message["text"])
    lines = "\n".join(f"    {line}" for line in str(grant).splitlines())
    return f"{message['text']}\nThese lines of the manifest would allow it:\n{lines}"


def _unpack(data: bytes) -> Any:
    if len(data) < _LARGE:
        return codec.unpack(data)
    import msgspec

    return msgspec.msgpack.decode(data)


def pid_of(pidfd: int) -> int | None:
    """The pid, in our own PID namespace, behind a pidfd (borrowed); None once it has ended (pidfd_open(2))."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                pid = int(line[4:])
                return pid if pid > 0 else None
    return None


def pids_of(value: dict[str, Any], fds: list[Fd]) -> list[int | None]:
    """The pids of an answer's first descriptors; closes all of them."""
    try:
        return [pid_of(fd.fileno()) for fd in fds[: value.get("pidfds", 0)]]
    finally:
        close_all(fds)
