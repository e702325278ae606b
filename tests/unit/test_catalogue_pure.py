"""The catalogue's decisions: policy, views and what a subscriber does with a delta."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.catalogue import policy, snapshots, view
from fildes.catalogue.policy import Facts, Holder, Sizes, Target, check, check_sizes, matches
from fildes.manifest import read, verify
from fildes.wire import catalogue as wire
from fildes.wire.catalogue import Grant, Limits, Manifest, Policy, Release, Rights, follow

PLAIN = Manifest(
    "shop", "asgi", "m:app", ["shop.localhost"], lines={"name": 1, "hosts": 4, "hosts.0": 5, "grants.x": 7}
)


def said(manifest: Manifest, facts: Facts | None = None, owner: str = "anna", by: Policy | None = None) -> list[str]:
    return [problem.show("f") for problem in check(manifest, owner, by or Policy(), facts or Facts())]


def changed(**fields: object) -> Manifest:
    return msgspec.structs.replace(PLAIN, **fields)


@pytest.mark.parametrize(
    ("host", "suffix", "fits"),
    [
        ("a.localhost", "*.localhost", True),
        ("a.b.localhost", "*.localhost", True),
        ("localhost", "*.localhost", False),
        (".localhost", "*.localhost", False),
        ("xlocalhost", "*.localhost", False),
        ("a.localhost.evil", "*.localhost", False),
        ("example.org", "example.org", True),
        ("www.example.org", "example.org", False),
        ("anything.at.all", "*", True),
    ],
)
def test_suffixes(host: str, suffix: str, fits: bool) -> None:
    assert matches(host, suffix) is fits


def test_what_is_allowed_passes() -> None:
    assert said(PLAIN) == []
    assert said(PLAIN, Facts(service_owner="anna", hosts={"shop.localhost": [Holder("/", "shop", "anna")]})) == []
    assert said(PLAIN, Facts(hosts={"shop.localhost": [Holder("/admin", "admin", "anna")]})) == []


def test_each_refusal_points_at_its_line() -> None:
    assert said(PLAIN, Facts(service_owner="bob")) == [
        'f:1: name: a service "shop" exists, and it belongs to another owner; choose another name'
    ]
    (text,) = said(changed(hosts=["shop.example.org"]))
    assert text.startswith('f:5: hosts[0]: "shop.example.org" is outside of what this owner may use: *.localhost; ')
    (text,) = said(PLAIN, Facts(hosts={"shop.localhost": [Holder("/x", "y", "bob")]}))
    assert (
        text == 'f:5: hosts[0]: the host "shop.localhost" is in use by a service of another owner; choose another host'
    )
    (text,) = said(PLAIN, Facts(hosts={"shop.localhost": [Holder("/", "other", "anna")]}))
    assert 'f:5: hosts[0]: "shop.localhost" is already served by the service "other"' in text
    (text,) = said(changed(grants=[Grant("x", "clock")]), by=Policy(kinds=["random"]))
    assert text.startswith('f:7: grants.x: the kind "clock" is not allowed to this owner; allowed: random')


@pytest.mark.parametrize(
    ("owner", "target", "fits"),
    [
        ("anna", Target("anna", ["shop"]), True),
        ("anna", Target("anna", ["anna/shop"]), True),
        ("anna", Target("anna", []), False),
        ("anna", Target("anna", ["bob/shop"]), False),
        ("bob", Target("anna", ["shop"]), False),
        ("bob", Target("anna", ["bob/shop"]), True),
        ("bob", Target("anna", ["carl/shop"]), False),
        ("anna", None, False),
    ],
)
def test_offers_name_the_service_and_its_owner(owner: str, target: Target | None, fits: bool) -> None:
    facts = Facts(targets={} if target is None else {"ledger": target})
    wants = changed(grants=[Grant("x", "connect", "ledger")])
    assert (said(wants, facts, owner) == []) is fits


def test_private_networks_are_the_operators_to_give() -> None:
    wants = changed(grants=[Grant("x", "connect", "db.example.org:5432", {"private": True})])
    [text] = said(wants)
    assert "f:7: grants.x.private" in text and "fildes policy anna private=true" in text
    assert said(wants, by=Policy(private=True)) == []


def test_connections_outward_and_to_itself() -> None:
    assert said(changed(grants=[Grant("x", "connect", "db.example.org:5432")])) == []
    assert "does not offer itself" in said(changed(grants=[Grant("x", "connect", "shop")]))[0]
    assert said(changed(grants=[Grant("x", "connect", "shop")], offers=["shop"])) == []


def test_secrets_must_be_set_first() -> None:
    wants = changed(grants=[Grant("x", "secret", None, {"secret": "key"})])
    assert said(wants)[0].endswith("set it: fildes secret set shop key")
    assert said(wants, Facts(secrets=frozenset({"key"}))) == []
    assert said(changed(grants=[Grant("x", "secret")]), Facts(secrets=frozenset({"x"}))) == []


def test_limits_above_the_owners() -> None:
    got = said(changed(limits=Limits(memory=1 << 40, cpu=99.0, tasks=10**6, concurrency=10**6)))
    assert [text.split()[1] for text in got] == [
        "limits.memory:",
        "limits.cpu:",
        "limits.tasks:",
        "limits.concurrency:",
    ]


def test_sizes() -> None:
    by = Policy(static_bytes=10, program_bytes=100, storage=250)
    site = changed(runtime="static", entry="")
    assert not check_sizes(site, by, 0, Sizes(10, 30))
    assert len(check_sizes(site, by, 0, Sizes(11, 31))) == 2
    assert not check_sizes(PLAIN, by, 0, Sizes(50, 200))
    assert len(check_sizes(PLAIN, by, 1, Sizes(50, 200))) == 1


def test_snapshots_copy_every_field() -> None:
    assert snapshots._Release.__struct_fields__ == Release.__struct_fields__
    assert snapshots._Rights.__struct_fields__ == Rights.__struct_fields__
    manifest = changed(
        env={"A": "b"},
        grants=[Grant("x", "secret", None, {"secret": "k"})],
        offers=["a", "bob/c"],
        limits=Limits(cpu=2.0),
    )
    blob = msgspec.msgpack.encode(manifest)
    release = view.release(manifest, "1", "anna", 7, "current", "bb", "pp", "abi")
    row = ("1", "shop", "anna", "asgi", blob, "bb", "pp", "abi", 7)
    many = 500  # more than one piece of it
    copied = b"".join(snapshots.listed(many, snapshots.releases([row] * many)))
    assert msgspec.msgpack.decode(copied, type=list[Release]) == [release] * many
    (rights,) = snapshots.rights([("1", "shop", "anna", blob)])
    assert msgspec.msgpack.decode(rights, type=Rights) == view.rights(release)
    assert msgspec.msgpack.decode(b"".join(snapshots.listed(0, []))) == []


def test_deltas_by_audience() -> None:
    site = view.release(changed(runtime="static", entry=""), "1", "anna", 7, "current", "b", "p", "")
    program = view.release(changed(hosts=["a.b/c"]), "2", "anna", 7, "current", "b", "p", "")
    shown = {audience: view.delta(audience, 3, 4, [site, program], ["0"]) for audience in wire.AUDIENCES}
    assert [(route.host, route.prefix) for route in shown["web"].put] == [("shop.localhost", "/"), ("a.b", "/c")]
    assert [route.release for route in shown["static"].put] == ["1"]
    assert [rights.release for rights in shown["bus"].put] == ["1", "2"]
    assert shown["orchestrator"].put == [site, program]
    assert all((delta.after, delta.number, delta.gone) == (3, 4, ["0"]) for delta in shown.values())


@pytest.mark.parametrize(
    ("listening", "url"),
    [
        (["127.0.0.1:8080"], "http://a.b:8080/c/"),
        (["0.0.0.0:80", "[::]:8080"], "http://a.b/c/"),
        (["[::1]:8080"], "http://a.b:8080/c/"),
        ([], "http://a.b/c/"),
    ],
)
def test_urls(listening: list[str], url: str) -> None:
    assert view.urls(["a.b/c"], listening) == [url]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_a_subscriber_never_skips_a_change(losses: list[tuple[int, int]]) -> None:
    """Deltas may be lost and repeated: who follows the rule holds what the catalogue holds, or asks again."""
    number, held, truth = 0, 0, [0]
    for lost, again in losses:
        sent = []
        for _ in range(lost + 1):
            number += 1
            truth.append(number)
            sent.append(wire.RouteDelta(number - 1, number))
        for delta in [sent[-1]] * (again + 1):
            match follow(held, delta):
                case "apply":
                    assert delta.after == held
                    held = delta.number
                case "subscribe":
                    held = number
        assert held == number
    assert follow(None, wire.RouteDelta(0, 1)) == "ignore"
    assert follow(held, wire.RouteDelta(number, number)) == "ignore"
    assert follow(held - 1, wire.RouteDelta(number, number)) == "subscribe" or held == 0


def test_what_the_reader_makes_is_verified() -> None:
    text = (
        b'name = "a"\nruntime = "asgi"\nentry = "m:app"\nhosts = ["B\xc3\xbccher.localhost/x"]\n'
        b'[env]\nA = "1"\n[grants]\n'
        b'clock = {}\nx = {kind = "connect", to = "my_db:80"}\ny = {kind = "connect", to = "[0::1]:80"}\n'
        b'z = {kind = "secret", secret = "q"}\n[offers]\nto = ["b", "x@y/c"]\n'
    )
    assert verify(read(text)) == []


def test_split_and_secret_names() -> None:
    assert policy.split("a.b") == ("a.b", "/")
    assert policy.split("a.b/c/d") == ("a.b", "/c/d")
    assert policy.secret_of(Grant("x", "secret", None, {"secret": 5})) == "x"
