"""Who a client is, when its connection comes through a proxy that `up --proxy` declares. Pure.

One proxy says it in one way, and only that way is believed; whatever else it passed on may be its client's invention:

    x-forwarded      X-Forwarded-For, -Proto and -Host
    forwarded        Forwarded (RFC 7239)
    proxy-protocol   a PROXY header, version 1 or 2, before the first request (web/proxy_header.py)

A chain is read from its end: what the nearest proxy added is true, and as long as it names a declared proxy, so is
what that one added. The first address that is none of them is the client. What is further left a client may have
written: it is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from fildes.wire.http_fields import Refused, split_host

HTTP: Final = ("x-forwarded", "forwarded")
PROXY_PROTOCOL: Final = "proxy-protocol"
WAYS: Final = (*HTTP, PROXY_PROTOCOL)
MOST_HOPS: Final = 16

Fields = list[tuple[bytes, bytes]]

_v4_with_port = re.compile(rb"([0-9.]+):[0-9]{1,5}").fullmatch
_v6_in_brackets = re.compile(rb"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?").fullmatch
# RFC 7239 4: pairs of token "=" (token / quoted-string), joined by ";", in elements joined by ",". Tokens are read a
# little wider: an address with a port is often sent without the quotes that it needs. Blanks are never given back
# ("*+"): a sender must not have us try each division of thousands of them.
_pair = re.compile(
    rb'[ \t]*+(?:([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:([^\s",;]+)|"((?:[^"\\]|\\.)*)"))?[ \t]*+([;,]|\Z)'
).match


class Client(NamedTuple):
    """`address` as the conveyor has it ("192.0.2.1 0"); `host` is None where the request's own Host is right."""

    address: bytes
    secure: bool
    host: bytes | None


class Proxies:
    """The networks that were declared, each with its way."""

    def __init__(self, declared: Iterable[Sequence[str]] = ()) -> None:
        self._declared: list[tuple[IPv4Network | IPv6Network, str]] = [
            (ip_network(network), way) for network, way in declared
        ]
        self.way = lru_cache(1024)(self._way)

    def __bool__(self) -> bool:
        return bool(self._declared)

    def _way(self, address: bytes) -> str:
        """How the proxy at `address` (without port) speaks of its clients; "" for everybody else."""
        try:
            found = ip_address(address.decode("ascii"))
        except ValueError:
            return ""
        return next((way for network, way in self._declared if found in network), "")

    def client(self, way: str, claims: Fields, peer: bytes, secure: bool) -> Client:
        """Who sent a request that came with `claims` from `peer`, a proxy that speaks `way`. Raises Refused (400)."""
        if way == "forwarded":
            elements = _elements(claims)
        elif way == "x-forwarded":
            elements = _old_elements(claims)
        else:
            return Client(peer, secure, None)
        address, host = peer, None
        for hop in reversed(elements[-MOST_HOPS:]):
            if hop.proto:
                secure = hop.proto == b"https"
            host = hop.host or host
            known = plain_address(hop.address)
            if known is None:  # "unknown", or a name of the proxy's own: nobody nearer to the client is known
                break
            address = known.encode() + b" 0"
            if self.way(known.encode()) != way:
                break
        return Client(address, secure, host)


class _Hop(NamedTuple):
    address: bytes
    proto: bytes
    host: bytes


def plain_address(text: bytes) -> str | None:
    """`b"[2001:db8::1]:4711"` → "2001:db8::1"; None for what is no address."""
    found = _v6_in_brackets(text) or _v4_with_port(text)
    try:
        address = ip_address((found[1] if found else text).decode("ascii"))
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return None if getattr(address, "scope_id", None) else str(mapped or address)


def _elements(claims: Fields) -> list[_Hop]:
    """Of all Forwarded headers together, which mean what one with all of them would (RFC 7239 4)."""
    text = b",".join(value for name, value in claims if name == b"forwarded")
    hops: list[_Hop] = []
    at, pairs = 0, {}
    while text:
        found = _pair(text, at)
        if found is None:
            raise Refused(400, "The header Forwarded can't be read (RFC 7239).")
        if found[1]:
            name = found[1].lower()
            if name in pairs:
                raise Refused(400, "The header Forwarded says something twice of one proxy (RFC 7239).")
            pairs[name] = found[2] if found[3] is None else re.sub(rb"\\(.)", rb"\1", found[3])
        if found[4] != b";":
            if pairs:
                hops.append(
                    _Hop(pairs.get(b"for", b""), _proto(pairs.get(b"proto", b"")), _host(pairs.get(b"host", b"")))
                )
            pairs = {}
        at = found.end()
        if at >= len(text):
            break
    return hops


def _old_elements(claims: Fields) -> list[_Hop]:
    """X-Forwarded-For has one address a proxy; the other two have as many words, or one of the nearest proxy's."""
    addresses, protos, hosts = (
        [word.strip(b" \t") for given, value in claims if given == name for word in value.split(b",")]
        for name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
    )
    count = max(len(addresses), 1)
    hops = []
    for place, address in enumerate(addresses or [b""]):
        proto, host = (_at(words, place, count) for words in (protos, hosts))
        hops.append(_Hop(address, _proto(proto), _host(host)))
    return hops


def _at(words: list[bytes], place: int, count: int) -> bytes:
    if len(words) == count:
        return words[place]
    return words[-1] if words and place == count - 1 else b""


def _proto(word: bytes) -> bytes:
    word = word.lower()
    if word not in (b"", b"http", b"https", b"ws", b"wss"):
        raise Refused(400, "A proxy names a protocol that is neither http nor https.")
    return b"https" if word in (b"https", b"wss") else b"http" if word else b""


def _host(word: bytes) -> bytes:
    if word and not split_host(word):
        raise Refused(400, "A proxy names a host that can't be one.")
    return word


def crowd_key(peer: bytes) -> bytes:
    """Whose connections are counted together: an IPv4 address, or the /64 that one subscriber has of IPv6."""
    address = peer[: peer.find(b" ")]
    if b":" not in address:
        return address
    try:
        return ip_address(address.decode("ascii")).packed[:8]
    except ValueError:
        return address
