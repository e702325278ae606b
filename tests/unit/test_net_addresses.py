"""Which addresses a granted name may lead to, and what a proxy request asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.drivers.net.addresses import refused
from fildes.drivers.net.census import Census, inodes
from fildes.drivers.net.proxy import allowed, target

PUBLIC = ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e"]
OWN = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"]
LINK = ["169.254.169.254", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"]
PRIVATE = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "::ffff:10.1.1.1", "64:ff9b:1::1"]
NEVER = ["0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "::ffff:0.0.0.0", "no address", ""]


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert refused(address, private=False) is None


@pytest.mark.parametrize("address", OWN + LINK + PRIVATE)
def test_private_needs_a_grant(address: str) -> None:
    assert refused(address, private=False)
    assert refused(address, private=True) is None


@pytest.mark.parametrize("address", NEVER)
def test_never(address: str) -> None:
    assert refused(address, private=False)
    assert refused(address, private=True)


@given(st.ip_addresses())
def test_every_address_is_decided(address: object) -> None:
    if refused(str(address), private=True):
        assert refused(str(address), private=False), "private = true only ever allows more"


def test_proxy_targets() -> None:
    assert target(b"CONNECT Pkg.example:443 HTTP/1.1\r\nHost: x\r\n\r\n") == ("pkg.example", 443, True)
    assert target(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n\r\n") == ("2001:db8::1", 443, True)
    assert target(b"GET http://pkg.example/simple/ HTTP/1.1\r\n\r\n") == ("pkg.example", 80, False)
    for head in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET https://pkg.example/ HTTP/1.1\r\n\r\n",
        b"CONNECT pkg.example HTTP/1.1\r\n\r\n",
        b"CONNECT pkg.example:443/x HTTP/1.1\r\n\r\n",
        b"CONNECT u@pkg.example:443 HTTP/1.1\r\n\r\n",
        b"CONNECT pkg.example:99999 HTTP/1.1\r\n\r\n",
        b"GET ftp://pkg.example/ HTTP/1.1\r\n\r\n",
        b"CONNECT pkg.example:443\r\n\r\n",
        b"\x16\x03\x01",
    ):
        assert target(head) is None, head
    assert allowed("PKG.example.", 443, {"pkg.example:443"})
    assert not allowed("pkg.example", 80, {"pkg.example:443"})
    assert allowed("2001:db8::1", 443, {"[2001:db8::1]:443"})


@given(st.binary(max_size=200))
def test_any_head_is_decided(head: bytes) -> None:
    target(head)
    target(b"CONNECT " + head + b" HTTP/1.1\r\n")


def test_census_asks_the_kernel_only_at_the_cap() -> None:
    asked = []
    living: set[int] = {1, 2}

    def alive() -> set[int]:
        asked.append(1)
        return living

    census = Census(alive)
    key = ("release", "db")
    for inode in (1, 2):
        assert census.begin(key, 2)
        census.end(key, inode)
    assert not asked
    assert not census.begin(key, 2)
    living.remove(1)
    assert census.begin(key, 2)
    assert not census.begin(key, 2), "one being opened counts"
    census.end(key, None)
    assert census.begin(key, 2)
    assert census.begin(("other", "db"), 2)


def test_inodes() -> None:
    line = (
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 {} 1 0 100 0 0 10 0"
    )
    assert list(inodes([line.format(12345), line.format(0), "", "garbage"])) == [12345]
