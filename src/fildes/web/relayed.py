"""One request that is relayed: its two connections, and what waits between them."""

from __future__ import annotations

import socket
from typing import Final

from fildes.web.parcels import STATIC, Conveyor, Parcel
from fildes.web.response import Response
from fildes.web.sockets import borrow
from fildes.wire.http import Head
from fildes.wire.http_body import Chunked, Sized
from fildes.wire.http_fields import Refused

HELD: Final = 65536  # bytes kept of what a client sends behind a request for an upgrade that is not granted yet


class Relay:
    """`client` and `inner` are owned. Bytes wait in `up` (to the instance) and `down` (to the client)."""

    __slots__ = (
        "answered", "body", "client", "client_ended", "client_mask", "conveyor", "deaf", "down", "ended", "head",
        "inner", "inner_mask", "most", "moved", "open", "owner", "past", "peer", "raw", "response", "rest", "sock",
        "started", "taken", "timeout", "told_end", "up", "upgrade", "who",
    )  # fmt: skip

    def __init__(
        self, parcel: Parcel, inner: int, head: Head, conveyor: Conveyor, most: int, timeout: float, now: float
    ) -> None:
        self.conveyor = conveyor
        self.owner = conveyor.owner  # now: that of all static sites is each one's for a moment
        self.client = parcel.number
        self.sock = borrow(parcel.number)  # because only its calls can say MSG_DONTWAIT
        self.peer = parcel.peer
        self.past = parcel.past
        self.who = parcel.who
        self.head = head
        self.inner = inner
        self.most = most
        self.timeout = timeout
        self.started = self.moved = now  # `moved`: when a byte last did
        self.upgrade = bool(head.upgrade)
        self.body: Sized | Chunked = Chunked() if head.chunked else Sized(head.content_length or 0)
        self.raw = head.chunked
        self.taken = 0  # bytes of the request's body
        # A tenant that held the connection before may still read from it.
        keep = head.keep_alive and (parcel.past.origin is None or parcel.past.origin.release == STATIC)
        self.response = Response(
            head_only=head.method == "HEAD", old=head.version == "1.0", keep=keep, upgrade=bool(head.upgrade)
        )
        self.answered = False  # the head of the response is on its way to the client
        self.rest = b""  # of the next request, or of another protocol that is not spoken yet
        self.up = b""
        self.down = b""
        self.open = False  # another protocol: everything is passed on
        self.deaf = False  # the instance doesn't read on
        self.client_ended = False  # the client sends nothing more
        self.told_end = False  # and the instance knows
        self.ended = False  # the instance sends nothing more
        self.client_mask = self.inner_mask = -1  # what epoll waits for; −1: nothing

    @property
    def wants_more(self) -> bool:
        """Whether the client is to be read."""
        if self.client_ended:
            return False
        if self.open:
            return True
        return not self.body.done or (self.upgrade and len(self.rest) < HELD)

    @property
    def may_keep(self) -> bool:
        """After a complete response: whether the client's connection may carry another request."""
        return self.response.keep and self.body.done and not self.client_ended

    def take_in(self, data: bytes) -> None:
        """What of `data` is this request's goes into `up`. Raises Refused."""
        if not data:
            return
        if self.open:
            self.up += data
            return
        if self.body.done:
            self.rest += data
            return
        body = self.body.feed(data)
        self.taken += len(body)
        if self.taken > self.most:
            raise Refused(413, f"The body of the request is larger than {self.most} bytes.")
        if self.body.done:
            self.rest += self.body.rest
        if self.raw:  # chunks are made anew: extensions and trailers end here
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if self.body.done:
                body += b"0\r\n\r\n"
        if not self.deaf:
            self.up += body

    def switch(self) -> None:
        """The instance has switched protocols."""
        self.open = True
        self.up, self.rest = self.up + self.rest, b""

    def end_inner(self) -> None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, self.inner)
        try:
            end.shutdown(socket.SHUT_WR)
        except OSError:
            self.deaf = True
        finally:
            end.detach()
