"""Give a forked event loop descriptors of its own, at the same numbers.

An epoll, eventfd, pipe or socketpair made before a fork is one open file description in all children: events of one
instance would wake another, and the bytes in a pipe are a channel between them. Neither asyncio nor uvloop replaces
them after a fork. So what the loop made is written down in the zygote (`Holdings.since`), and a forked instance puts
new descriptions at the old numbers (`Holdings.renew`), where the loop finds them without knowing.

What does not work: a new loop in the child costs 0.5 ms of copied pages, and programs keep the loop they saw at import.

libuv keeps a pipe as a lock around its signal handling; its byte is the token. It replaces that pipe itself in
pthread_atfork, perhaps at other numbers: then the old ones are closed, and there is nothing to do. When the fork was
made by a bare _Fork(2) nobody replaced it, and it is replaced here, token included.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import stat
import termios
from typing import Final, NamedTuple

_EVENTFD, _PIPE, _PAIR, _EPOLL, _WATCH = range(1, 6)  # in shim/fork.c
_MOST: Final = 1024  # numbers are given out from the lowest on: a program that loads has nowhere near so many


class Unrenewable(OSError):
    """The loop holds a kind of descriptor that can't be replaced."""


class _Pipe(NamedTuple):
    reader: int
    writer: int
    pending: int  # bytes in it


class Holdings:
    """Descriptors that were opened in between two moments, with what is registered in each epoll among them."""

    def __init__(self) -> None:
        self.epolls: dict[int, dict[int, int]] = {}  # number → {registered number: events}
        self.eventfds: list[int] = []
        self.pipes: list[_Pipe] = []
        self.socketpairs: list[tuple[int, int]] = []

    @classmethod
    def since(cls, before: set[int]) -> Holdings:
        """Everything open now that wasn't in `before` (from `open_numbers`). Raises Unrenewable."""
        self = cls()
        pipes: dict[int, list[int]] = {}
        sockets: list[int] = []
        numbers = open_numbers()
        for number in sorted(numbers - before):
            mode = os.fstat(number).st_mode
            if stat.S_ISFIFO(mode):
                pipes.setdefault(os.fstat(number).st_ino, []).append(number)
            elif stat.S_ISSOCK(mode):
                sockets.append(number)
            elif stat.S_IFMT(mode):
                raise Unrenewable(
                    f"the event loop holds descriptor {number}, which can't be given to an instance of its own"
                )
            elif (registered := _registered(number, numbers)) is not None:
                self.epolls[number] = registered
            else:
                self.eventfds.append(number)
        for ends in pipes.values():
            if len(ends) != 2:
                raise Unrenewable("the event loop holds one end of a pipe")
            ends.sort(key=lambda end: fcntl.fcntl(end, fcntl.F_GETFL) & os.O_ACCMODE)
            self.pipes.append(_Pipe(ends[0], ends[1], _pending(ends[0])))
        # Both loops make one pair, and nothing else that is a socket.
        if len(sockets) % 2:
            raise Unrenewable("the event loop holds a socket that is not one of a pair")
        self.socketpairs = list(zip(sockets[::2], sockets[1::2], strict=True))
        return self

    def rows(self) -> list[tuple[int, int, int, int]]:
        """The same for shim/fork.c, in the order in which they are replaced: kind, number, another, more."""
        return [
            *((_EVENTFD, number, -1, 0) for number in self.eventfds),
            *((_PIPE, *pipe) for pipe in self.pipes),
            *((_PAIR, one, other, 0) for one, other in self.socketpairs),
            *((_EPOLL, number, -1, 0) for number in self.epolls),
            *(
                (_WATCH, number, fd, events)
                for number, watched in self.epolls.items()
                for fd, events in watched.items()
            ),
        ]

    def renew(self) -> None:
        """Replace every one of them, in the child, before any other descriptor is opened there."""
        for number in self.eventfds:
            _move(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK), number)
        for reader, writer, pending in self.pipes:
            if not (_is_open(reader) and _is_open(writer)):
                continue  # libuv's lock, which libuv moved: to lower numbers, so at least the writer's is free now
            new_reader, new_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            if pending:
                os.set_blocking(new_reader, True)
                os.set_blocking(new_writer, True)
                os.write(new_writer, b"*" * pending)
            # The old pair is open, so neither new number is among them.
            _move(new_reader, reader)
            _move(new_writer, writer)
        for one, other in self.socketpairs:
            new_one, new_other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            _move(new_one.detach(), one)
            _move(new_other.detach(), other)
        for number in self.epolls:
            new = select.epoll()
            _replace(new.fileno(), number)
            new.close()
        for number, registered in self.epolls.items():
            if registered:
                old = select.epoll.fromfd(number)
                for fd, events in registered.items():
                    old.register(fd, events)
                _kept.append(old)  # dropping it would close the number


_kept: list[select.epoll] = []


def open_numbers() -> set[int]:
    """The numbers that are open in this process. There is no /proc in a view: each is tried."""
    return {number for number in range(_MOST) if _is_open(number)}


def _registered(number: int, numbers: set[int]) -> dict[int, int] | None:
    """What is registered in the epoll `number`; None if it is none. What a loop registers for itself, it reads."""
    found = {}
    epoll = select.epoll.fromfd(number)
    try:
        for fd in numbers - {number}:
            try:
                epoll.register(fd, 0)
                epoll.unregister(fd)
            except FileExistsError:
                found[fd] = select.EPOLLIN
            except PermissionError:  # a file, which can't be polled
                continue
            except OSError as error:
                if error.errno == errno.EINVAL:  # this is no epoll
                    return None
                if error.errno != errno.ELOOP:  # `fd` is one with this one in it
                    raise
    finally:
        _kept.append(epoll)  # dropping it would close the number
    return found


def _pending(number: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(number, termios.FIONREAD, count)
    return count[0]


def _is_open(number: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def _replace(new: int, number: int) -> None:
    # dup2 of a number onto itself would be refused for inheritable=False, and can't happen: `number` is open.
    os.dup2(new, number, inheritable=False)


def _move(new: int, number: int) -> None:
    _replace(new, number)
    os.close(new)
