"""Who a client is: chains of proxies, and PROXY headers, true, wrong and invented."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fildes.sandbox import profile
from fildes.web import proxy_header
from fildes.web.proxies import Proxies, crowd_key, plain_address
from fildes.wire.http import INCOMPLETE, Bad
from fildes.wire.http_fields import Refused

OLD = Proxies([("10.0.0.0/8", "x-forwarded"), ("fd00::/8", "x-forwarded")])
NEW = Proxies([("10.0.0.0/8", "forwarded")])
PEER = b"10.0.0.1 4711"


def old(*claims):
    return OLD.client("x-forwarded", [(b"x-forwarded-" + name, value) for name, value in claims], PEER, False)


def new(*values):
    return NEW.client("forwarded", [(b"forwarded", value) for value in values], PEER, False)


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (b"192.0.2.1", b"192.0.2.1 0"),
        (b"6.6.6.6, 192.0.2.1", b"192.0.2.1 0"),  # what the client itself wrote is not looked at
        (b"6.6.6.6, 192.0.2.1, 10.0.0.2, 10.9.9.9", b"192.0.2.1 0"),
        (b"10.0.0.7", b"10.0.0.7 0"),
        (b"garbage, 192.0.2.1:99", b"192.0.2.1 0"),
        (b"[2001:db8::1]:99", b"2001:db8::1 0"),
        (b"::ffff:192.0.2.1", b"192.0.2.1 0"),
        (b"192.0.2.1, unknown", PEER),
        (b"192.0.2.1, 10.0.0.2, <script>", PEER),
        (b"fe80::1%eth0", PEER),
        (b"", PEER),
        (b"6.6.6.6" + b", 10.0.0.2" * 40, b"10.0.0.2 0"),  # longer than any chain that is read
    ],
)
def test_a_chain_is_read_from_its_end(chain, client):
    assert old((b"for", chain)).address == client
    assert old(*[(b"for", part) for part in chain.split(b",")]).address == client, "several headers are one list"


def test_who_is_no_declared_proxy_has_no_way():
    assert OLD.way(b"10.1.2.3") == "x-forwarded" and OLD.way(b"fd12::1") == "x-forwarded"
    assert OLD.way(b"192.0.2.1") == "" and OLD.way(b"nonsense") == ""
    assert not Proxies()


def test_the_protocol_and_the_host_that_a_proxy_was_asked_for():
    found = old((b"for", b"192.0.2.1"), (b"proto", b"HTTPS"), (b"host", b"shop.example"))
    assert found.secure and found.host == b"shop.example"
    assert not old((b"for", b"192.0.2.1"), (b"proto", b"http")).secure
    both = old((b"for", b"192.0.2.1, 10.0.0.2"), (b"proto", b"https, http"), (b"host", b"a.example, b.example"))
    assert both.secure and both.host == b"a.example"
    spoofed = old((b"for", b"6.6.6.6, 192.0.2.1"), (b"proto", b"https, http"))
    assert not spoofed.secure, "the first word is the client's own"


def test_only_the_declared_way_is_believed():
    assert OLD.client("x-forwarded", [(b"forwarded", b"for=6.6.6.6")], PEER, False).address == PEER
    assert NEW.client("forwarded", [(b"x-forwarded-for", b"6.6.6.6")], PEER, False).address == PEER
    assert NEW.client("introduced", [(b"x-forwarded-for", b"6.6.6.6")], PEER, True) == (PEER, True, None)


@pytest.mark.parametrize(
    ("values", "client", "secure"),
    [
        ([b"for=192.0.2.1"], b"192.0.2.1 0", False),
        ([b"for=192.0.2.1;proto=https;by=_x"], b"192.0.2.1 0", True),
        ([b'For="[2001:db8::1]:47";PROTO=https'], b"2001:db8::1 0", True),
        ([b"for=6.6.6.6;proto=https, for=192.0.2.1"], b"192.0.2.1 0", False),
        ([b"for=6.6.6.6;proto=https", b"for=192.0.2.1"], b"192.0.2.1 0", False),  # two headers are one list
        ([b'for="6.6.6.6, for=7.7.7.7", for=192.0.2.1'], b"192.0.2.1 0", False),
        ([b"for=192.0.2.1;proto=https, for=10.0.0.2"], b"192.0.2.1 0", True),
        ([b"for=_hidden"], PEER, False),
        ([b"for=unknown, for=10.0.0.2"], b"10.0.0.2 0", False),
        ([b"proto=https"], PEER, True),
    ],
)
def test_forwarded(values, client, secure):
    found = new(*values)
    assert (found.address, found.secure) == (client, secure)


@pytest.mark.parametrize(
    "value", [b'for="192.0.2.1', b"for=1.2.3.4;for=5.6.7.8", b"for", b"=x", b"for=a b", b"proto=gopher", b"host=a/b"]
)
def test_what_is_no_forwarded_header_is_refused(value):
    with pytest.raises(Refused) as caught:
        new(value)
    assert caught.value.bad.status == 400


@given(st.lists(st.binary(max_size=60), max_size=3))
@example([b"\n"])
@example([b"for=a," + b" " * 1_000_000 + b"!"])
def test_no_header_makes_it_fail(values):
    for way, name in (("forwarded", b"forwarded"), ("x-forwarded", b"x-forwarded-for")):
        try:
            found = NEW.client(way, [(name, value) for value in values], PEER, False)
        except Refused:
            continue
        address = found.address.partition(b" ")[0]
        assert plain_address(address) is not None


def v2(block: bytes, command: int = 0x21, family: int = 0x11) -> bytes:
    return proxy_header.SIGNATURE + struct.pack(">BBH", command, family, len(block)) + block


V4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.1") + struct.pack(">HH", 4711, 443)
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") * 2 + struct.pack(">HH", 4711, 443)
TLS = b"\x20\0\x05\x01\0\0\0\0"


@pytest.mark.parametrize(
    ("data", "peer", "secure"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n", b"192.0.2.1 4711", False),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n", b"2001:db8::1 4711", False),
        (b"PROXY UNKNOWN\r\n", b"", False),
        (b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n", b"", False),
        (v2(V4), b"192.0.2.1 4711", False),
        (v2(V4 + TLS), b"192.0.2.1 4711", True),
        (v2(V6, family=0x21), b"2001:db8::1 4711", False),
        (v2(b"", command=0x20, family=0), b"", False),
        (v2(b"\0" * 40, family=0), b"", False),
    ],
)
def test_proxy_headers(data, peer, secure):
    for cut in range(1, len(data)):
        assert proxy_header.parse(data[:cut]) is INCOMPLETE
    for rest in (b"", b"GET / HTTP/1.1\r\n"):
        assert proxy_header.parse(data + rest) == (len(data), peer, secure)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443 5\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 70000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 -1 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.1 4711 443\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.1 4711 443\r\n",
        b"PROXY TCP4 [192.0.2.1] 198.51.100.1 4711 443\r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.1 4711 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\n",
        b"PROXY " + b"x" * 200,
        v2(V4, command=0x11),
        v2(V4, command=0x22),
        v2(V4, family=0x12),
        v2(V4, family=0x31),
        v2(V4[:-1]),
        v2(V4 + b"\x20\0"),
        v2(V4 + b"\x20\0\xff\x01"),
        v2(bytes(4000)),
    ],
)
def test_what_is_no_proxy_header_is_refused(data):
    found = proxy_header.parse(data)
    assert isinstance(found, Bad) and found.status == 400 and found.sentence.endswith(".")


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_fail(data):
    for text in (data, b"PROXY " + data, v2(data), proxy_header.SIGNATURE + data):
        proxy_header.parse(text)


def test_whose_connections_are_counted_together():
    assert crowd_key(b"192.0.2.1 1") == crowd_key(b"192.0.2.1 2") != crowd_key(b"192.0.2.2 1")
    assert crowd_key(b"2001:db8:1:2::1 1") == crowd_key(b"2001:db8:1:2:ffff::9 2") != crowd_key(b"2001:db8:1:3::1 1")


def test_nobody_but_the_door_can_make_a_connection_linger():
    """The door closes its copies without setting SO_LINGER back: a close that waits would hold everybody up."""
    allow = profile.load("serve").decide("close", [3])
    for name in profile.names():
        if name != "web":
            decided = profile.load(name).decide("setsockopt", [3, socket.SOL_SOCKET, socket.SO_LINGER, 0, 8])
            assert decided != allow, name
