"""The routing table: pure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fildes.daemon.routes import Table
from fildes.wire.catalogue import Route
from fildes.wire.http import under


def route(host: str, prefix: str = "/", release: str = "r1", owner: str = "anna", runtime: str = "asgi") -> Route:
    return Route(host, prefix, f"s-{release}", release, owner, runtime)  # type: ignore[arg-type]


def test_host_then_longest_prefix():
    table = Table(
        1, [route("a.test"), route("a.test", "/x", "r2"), route("a.test", "/x/y", "r3"), route("b.test", "/b", "r4")]
    )
    found = {path: table.find("a.test", path) for path in ("/", "/x", "/x/", "/xy", "/x/y", "/x/y/z", "/x/yz", "x")}
    assert {path: match.route.release for path, match in found.items() if match} == {
        "/": "r1", "/x": "r2", "/x/": "r2", "/xy": "r1", "/x/y": "r3", "/x/y/z": "r3", "/x/yz": "r2", "x": "r1",
    }  # fmt: skip
    assert table.find("b.test", "/") is None and table.knows("b.test")
    assert table.find("c.test", "/") is None and not table.knows("c.test")


def test_who_shares_a_host():
    alone = Table(1, [route("a.test")]).find("a.test", "/")
    assert alone is not None and not alone.mixed and not alone.shared
    mixed = Table(1, [route("a.test"), route("a.test", "/x", "r2")]).find("a.test", "/")
    assert mixed is not None and mixed.mixed and not mixed.shared
    shared = Table(1, [route("a.test"), route("a.test", "/x", "r2", "bert")]).find("a.test", "/")
    assert shared is not None and shared.shared


def test_deltas_make_new_tables():
    first = Table(1, [route("a.test"), route("b.test", "/", "r2")])
    second = first.with_delta(2, [route("a.test", "/", "r3"), route("c.test", "/", "r3")], ["r2"])
    assert first.number == 1 and second.number == 2
    assert {(r.host, r.release) for r in first.routes()} == {("a.test", "r1"), ("b.test", "r2")}
    assert {(r.host, r.release) for r in second.routes()} == {("a.test", "r3"), ("c.test", "r3")}
    assert not second.knows("b.test")


def test_hosts_where_static_services_are_not_alone():
    table = Table(
        1,
        [
            route("only.test", "/", "r1", runtime="static"),
            route("two.test", "/", "r2", runtime="static"),
            route("two.test", "/x", "r3", runtime="static"),
            route("mixed.test", "/", "r4", runtime="static"),
            route("mixed.test", "/api", "r5"),
            route("shared.test", "/", "r6", runtime="static"),
            route("shared.test", "/x", "r7", "bert", runtime="static"),
            route("app.test", "/", "r8"),
            route("app.test", "/x", "r9"),
        ],
    )
    assert table.mixed_static_hosts() == ["mixed.test", "shared.test"]


_prefixes = st.lists(st.sampled_from(["/", "/a", "/a/b", "/ab", "/b"]), unique=True, min_size=1)


@given(_prefixes, _prefixes, st.text("/ab", max_size=6).map(lambda path: "/" + path))
def test_find_is_the_longest_of_what_matches(before, after, path):
    """Also after a delta: a table is what its routes are."""
    table = Table(1, [route("h", p, f"old{p}") for p in before])
    table = table.with_delta(2, [route("h", p, f"new{p}") for p in after], [f"old{p}" for p in before[::2]])
    fresh = Table(2, table.routes())
    prefixes = {*before[1::2], *after}
    matching = [p for p in prefixes if under(path, p.rstrip("/"))]
    for each in (table, fresh):
        match = each.find("h", path)
        assert (match.route.prefix if match else None) == max(matching, key=len, default=None)
