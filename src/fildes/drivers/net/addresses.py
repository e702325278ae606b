"""Which addresses a name may lead to. Pure.

A grant names a host; whoever runs that host's DNS decides what it resolves to. Without this check that would be
the node's own loopback, its neighbours, or a cloud's metadata service.
"""

from __future__ import annotations

import ipaddress
from typing import Final

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_NAT64_LOCAL: Final = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215
_SIX_TO_FOUR: Final = ipaddress.IPv6Network("2002::/16")  # RFC 3056

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def innermost(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for on the wire (mapped, NAT64, 6to4, Teredo), or itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return ipaddress.IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address


def refused(text: str, private: bool) -> str | None:
    """Why a connection to the address `text` is refused, in a word or two; None if it is not.

    `private`: the grant says private = true: networks of one's own and this machine are allowed.
    """
    try:
        outer = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return "not an address"
    address = innermost(outer)
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        return "no address of one machine"
    if private:
        return None
    if address.is_loopback:
        return "this machine itself"
    if address.is_link_local:
        return "a link-local address"
    if isinstance(outer, ipaddress.IPv6Address) and outer in _NAT64_LOCAL:
        return "a private address"
    if not address.is_global:
        return "a private address"
    return None
