"""A client's request, as it is relayed: the head that the instance is given in place of the client's. Pure."""

from __future__ import annotations

from typing import Final

from fildes.web.proxies import Client
from fildes.wire.http import Head
from fildes.wire.http_fields import is_claim

# Of this one connection; what Connection names is too (RFC 9110 7.6.1).
_HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"http2-settings")
)
_NEVER_DROPPED: Final = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"expect", b"content-type", b"cookie")
)


def single_request(head: Head, data: bytes, client: Client | None = None) -> bytes:
    """The head in `data` (its first `head.length` bytes), asking for this one response only.

    `client`: where a proxy told of it, in place of everything that the request itself claims.
    """
    request_line, _, block = data[: head.length - 2].lstrip(b"\r\n").partition(b"\r\n")
    named = {w.strip(b" \t").lower() for n, v in head.headers if n == b"connection" for w in v.split(b",")}
    dropped = _HOP_BY_HOP | (named - _NEVER_DROPPED)
    kept = []
    for line in block.split(b"\r\n"):
        name = line.partition(b":")[0].lower()
        if name == b"host" and client is not None and client.host:
            kept.append(b"Host: " + client.host)
        elif line and name not in dropped and not is_claim(name):
            kept.append(line)
    if client is not None:
        kept += _told(client, client.host or head.fields.authority)
    if head.upgrade:
        kept += (b"Upgrade: " + head.upgrade, b"Connection: Upgrade")
    else:
        kept.append(b"Connection: close")
    if client is not None and client.host and not request_line.partition(b" ")[2].startswith(b"/"):
        request_line = b"%b %b HTTP/%b" % (head.method.encode(), _origin_form(head), head.version.encode())
    return b"\r\n".join((request_line, *kept, b"", b""))


def _origin_form(head: Head) -> bytes:
    return head.raw_path + (b"?" + head.query if head.query else b"")


def _told(client: Client, host: bytes) -> list[bytes]:
    address = client.address.partition(b" ")[0]
    node = b'"[%b]"' % address if b":" in address else address
    proto = b"https" if client.secure else b"http"
    return [
        b"X-Forwarded-For: " + address,
        b"X-Forwarded-Proto: " + proto,
        b"X-Forwarded-Host: " + host,
        b'Forwarded: for=%b;proto=%b;host="%b"' % (node, proto, host),
    ]
