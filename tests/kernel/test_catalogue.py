"""The catalogue over its channel: real SQLite, real files, real sockets; the test plays the other daemons."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fildes.daemon.peer import Refused
from fildes.kernel import memfd
from fildes.kernel.fds import Fd
from fildes.kernel.loop import Promise
from fildes.wire import catalogue as wire
from fildes.wire.drivers import Open, Opened

sys.path.insert(0, str(Path(__file__).parent))

from catalogue_bench import Bench, app, site, static


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    before = set(os.listdir("/proc/self/fd"))
    with Bench(tmp_path / "state") as bench:
        yield bench
    assert not bench.errors
    assert set(os.listdir("/proc/self/fd")) == before


def refused(code: str):
    """pytest.raises(Refused) with that code."""
    return pytest.raises(Refused, check=lambda error: error.code == code)


def test_a_publish_from_manifest_to_subscribers(bench: Bench) -> None:
    held = {audience: bench.snapshot(audience) for audience in wire.AUDIENCES}
    assert held["web"] == (0, [])
    bench.log.clear()
    bench.events.clear()

    got = bench.publish(app("shop", hosts='["shop.localhost", "shop.localhost/admin"]', more="[grants.clock]\n"))

    assert got.service == "shop"
    assert got.urls == ["http://shop.localhost:8080/", "http://shop.localhost:8080/admin/"]
    assert not got.unchanged
    assert list(got.phases) == ["check", "store", "warm", "warm.load", "switch"]
    assert bench.log == ["orchestrator.warm", "web.delta", "static.delta", "bus.delta", "orchestrator.delta", "reply"]
    assert [release.state for release in bench.warmed] == ["candidate"]
    (delta,) = bench.deltas("web")
    assert wire.follow(0, delta) == "apply"
    assert [(r.host, r.prefix, r.release) for r in delta.put] == [
        ("shop.localhost", "/", got.release),
        ("shop.localhost", "/admin", got.release),
    ]
    assert bench.deltas("static")[0].put == []
    assert [grant.name for grant in bench.deltas("bus")[0].put[0].grants] == ["clock"]
    (release,) = bench.deltas("orchestrator")[0].put
    assert (release.id, release.state, release.uid) == (got.release, "current", 501_000)
    for audience in wire.AUDIENCES:
        number, items = bench.snapshot(audience)
        assert number == 1
        assert items == bench.deltas(audience)[0].put
    bench.consistent()


def test_the_pack_comes_back_read_only(bench: Bench) -> None:
    release = bench.publish(app("a"), b"the pack").release
    body, (fd,) = bench.ask("orchestrator", "pack", wire.Pack(release), reply=wire.Packed)
    with fd:
        assert body.size == 8
        assert os.pread(fd.fileno(), 100, 0) == b"the pack"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd.fileno(), b"x")
    with refused("not-found"):
        bench.ask("static", "pack", wire.Pack("0" * 12))


def test_the_sources_of_a_release_come_back(bench: Bench) -> None:
    first = bench.publish(app("a"), bundle=b"one")
    second = bench.publish(app("a", more="[env]\nX = '1'\n"), bundle=b"two", abi="py-next")
    for asked, release, content, abi in (
        (wire.Sources("a"), second.release, b"two", "py-next"),
        (wire.Sources("a", first.release), first.release, b"one", "py"),
    ):
        body, (fd,) = bench.ask("publish", "sources", asked, reply=wire.Sourced)
        with fd:
            assert os.pread(fd.fileno(), 100, 0) == content
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(fd.fileno(), b"x")
        assert (body.release, body.owner, body.manifest.name, body.abi) == (release, "anna", "a", abi)
    for nothing in (wire.Sources("b"), wire.Sources("a", "0" * 12), wire.Sources("b", first.release)):
        with refused("not-found"):
            bench.ask("publish", "sources", nothing)
    with refused("not-allowed"):
        bench.ask("debug", "sources", wire.Sources("a"))
    _, (fd,) = bench.ask("debug", "services", wire.Services(), reply=wire.ServiceCount)
    with fd:
        listed = msgspec.msgpack.decode(memfd.read_sealed(fd.fileno()), type=list[wire.ServiceInfo])
    assert [info.abi for info in listed] == ["py-next"]


def test_the_same_again_is_unchanged_and_costs_nothing(bench: Bench) -> None:
    first = bench.publish(app("a"))
    bench.events.clear()
    again = bench.publish("# moved down a line\n" + app("a"))
    assert again.unchanged
    assert again.release == first.release
    assert len(bench.warmed) == 1
    assert not bench.events
    assert not bench.publish(app("a", more="[env]\nX = '1'\n")).unchanged
    assert not bench.publish(app("a", more="[env]\nX = '1'\n"), abi="py-next").unchanged


def test_a_second_release_replaces_the_first(bench: Bench) -> None:
    first = bench.publish(app("a"))
    bench.events.clear()
    second = bench.publish(app("a", hosts='["b.localhost"]'), bundle=b"two")
    assert bench.deltas("web")[0].gone == [first.release]
    assert bench.routes() == {"b.localhost/": second.release}
    states = bench.ask("debug", "releases", wire.Releases("a"), reply=wire.ReleaseList)[0].releases
    assert [(r.release, r.state) for r in states] == [(second.release, "current"), (first.release, "old")]
    assert len({release.uid for release in bench.warmed}) == 1
    bench.consistent()


def test_a_program_that_does_not_start_changes_nothing(bench: Bench) -> None:
    first = bench.publish(app("a"))
    bench.events.clear()
    bench.warm = lambda release: Refused("load-failed", "main.py, line 3: ModuleNotFoundError: no module 'flask'")
    with refused("warm") as caught:
        bench.publish(app("a"), bundle=b"broken")
    assert "main.py, line 3" in caught.value.text
    assert bench.routes() == {"a.localhost/": first.release}
    (delta,) = bench.deltas("orchestrator")
    assert (delta.put, delta.gone) == ([], [bench.warmed[-1].id])
    bench.consistent()


def test_a_first_publish_that_fails_leaves_no_service(bench: Bench) -> None:
    bench.warm = lambda release: Refused("load-failed", "no")
    with refused("warm"):
        bench.publish(app("a"))
    bench.consistent()
    assert bench.files() == set()
    bench.warm = lambda release: {}
    bench.publish(app("b"))
    bench.publish(app("a"))
    uids = {release.service: release.uid for release in bench.warmed}
    assert uids == {"a": 501_000, "b": 501_001}


def test_static_sites_are_not_warmed_but_must_open(bench: Bench) -> None:
    got = bench.publish(static("docs"))
    assert not bench.warmed
    assert [route.release for route in bench.snapshot("static")[1]] == [got.release]
    with refused("bundle") as caught:
        bench.publish(static("docs"), b"not a pack", bundle=b"2")
    assert "pack cannot be used" in caught.value.text
    bench.consistent()


def test_two_publishes_of_one_service_wait_for_each_other(bench: Bench) -> None:
    promises: dict[str, Promise[object]] = {}
    bench.warm = lambda release: promises.setdefault(release.bundle, Promise(bench.loop))
    one = bench.start_publish(app("a"), bundle=b"1")
    two = bench.start_publish(app("a"), bundle=b"2")
    other = bench.start_publish(app("b"), bundle=b"3")
    while len(bench.warmed) < 2:
        bench.loop.turn()
    bench.settle()
    assert [release.service for release in bench.warmed] == ["a", "b"]
    next(iter(promises.values())).resolve({})
    first = bench.loop.run_until(one)[0]
    while len(bench.warmed) < 3:
        bench.loop.turn()
    for promise in promises.values():
        promise.resolve({})
    second = bench.loop.run_until(two)[0]
    bench.loop.run_until(other)
    assert bench.routes()["a.localhost/"] == second.release != first.release
    bench.consistent()


def test_two_services_that_want_one_host_at_once(bench: Bench) -> None:
    gate: Promise[object] = Promise(bench.loop)
    bench.warm = lambda release: gate
    one = bench.start_publish(app("a", hosts='["x.localhost"]'), bundle=b"1")
    two = bench.start_publish(app("b", hosts='["x.localhost"]'), bundle=b"2")
    while len(bench.warmed) < 2:
        bench.loop.turn()
    gate.resolve({})
    winner = bench.loop.run_until(one)[0]
    with refused("manifest") as caught:
        bench.loop.run_until(two)
    assert "fildes.toml:4: " in caught.value.text
    assert 'already served by the service "a"' in caught.value.text
    assert bench.routes() == {"x.localhost/": winner.release}
    bench.consistent()


def test_what_the_policy_refuses(bench: Bench) -> None:
    bench.publish(app("ledger", more='[offers]\nto = ["shop"]\n'))
    for text, owner, says in [
        (app("a", hosts='["a.example.org"]'), "anna", "fildes.toml:4: hosts[0]: "),
        (app("ledger"), "bob", "belongs to another owner"),
        (app("b", hosts='["ledger.localhost/x"]'), "bob", "another owner"),
        (app("b", more='[grants.x]\nkind = "connect"\nto = "nothing"\n'), "anna", "fildes.toml:7: grants.x.to: "),
        (app("b", more='[grants.x]\nkind = "connect"\nto = "ledger"\n'), "anna", '[offers] to = ["b"]'),
        (app("shop", more='[grants.x]\nkind = "connect"\nto = "ledger"\n'), "bob", '[offers] to = ["bob/shop"]'),
        (app("b", more="[grants.secret]\n"), "anna", "fildes secret set b secret"),
        (app("b", more='[limits]\nmemory = "1TiB"\n'), "anna", "fildes.toml:6: limits.memory"),
    ]:
        with refused("manifest") as caught:
            bench.publish(text, owner=owner)
        assert says in caught.value.text
    bench.publish(app("shop", more='[grants.x]\nkind = "connect"\nto = "ledger"\n'))
    bench.consistent()


def test_files_that_are_not_what_was_announced(bench: Bench) -> None:
    read = wire.Manifest("a", "asgi", "m:app", ["a.localhost"])
    fds = [memfd.sealed("bundle", b"other"), memfd.sealed("pack", b"p")]
    with refused("bundle") as caught:
        bench.ask("publish", "publish", wire.Publish("anna", read, "0" * 64), fds)
    assert "was announced" in caught.value.text
    reader, writer = (Fd(n) for n in os.pipe2(os.O_CLOEXEC))
    with writer, refused("bundle") as caught:
        bench.ask("publish", "publish", wire.Publish("anna", read, "0" * 64), [reader, memfd.sealed("p", b"p")])
    assert "regular file" in caught.value.text
    with refused("bundle"):
        bench.ask("publish", "publish", wire.Publish("anna", read, "0" * 64), [memfd.sealed("p", b"p")])
    with refused("not-stored"):
        bench.ask("publish", "publish", wire.Publish("anna", read, "0" * 64))
    bench.consistent()
    assert bench.files() == set()


def test_a_manifest_that_no_reader_made(bench: Bench) -> None:
    for read in (
        wire.Manifest("../a", "asgi", "m:app", ["a.localhost"]),
        wire.Manifest("a", "asgi", "m:app", ["*.localhost"]),
        wire.Manifest("a", "asgi", "import os", ["a.localhost"]),
        wire.Manifest("a", "asgi", "m:app", grants=[wire.Grant("x", "spawn")]),
        wire.Manifest("a", "asgi", "m:app", env={"LD_PRELOAD": "x"}),
        wire.Manifest("a", "asgi", "m:app", limits=wire.Limits(cpu=float("nan"))),
    ):
        with refused("manifest"):
            bench.ask("publish", "publish", wire.Publish("anna", read, "0" * 64))
    with refused("not-allowed"):
        read = wire.Manifest("a", "asgi", "m:app", ["a.localhost"])
        bench.ask("publish", "publish", wire.Publish("a/b", read, "0" * 64))


def test_known_files_need_not_be_sent_again(bench: Bench) -> None:
    bench.publish(app("a"), b"the pack", bundle=b"src")
    bundle = bench.warmed[0].bundle
    known = bench.ask("publish", "known", wire.Known("anna", bundle, "py"), reply=wire.Knowledge)[0]
    assert known.pack == bench.warmed[0].pack
    for other in (wire.Known("bob", bundle, "py"), wire.Known("anna", bundle, "x"), wire.Known("anna", "f" * 64, "py")):
        assert bench.ask("publish", "known", other, reply=wire.Knowledge)[0].pack is None
    read = wire.Manifest("b", "asgi", "m:app", ["b.localhost"])
    got = bench.ask("publish", "publish", wire.Publish("anna", read, bundle, "py"), reply=wire.Published)[0]
    assert bench.routes()["b.localhost/"] == got.release
    bench.ask("debug", "remove", wire.Remove("a"), reply=wire.Removed)
    bench.consistent()
    assert len(bench.files()) == 2


def test_quota(bench: Bench) -> None:
    small = wire.Policy(static_bytes=2000, program_bytes=1000, storage=7000, services=2)
    bench.ask("debug", "policy_set", wire.PolicySet("anna", small), reply=wire.Done)
    assert bench.ask("debug", "policy_get", wire.PolicyGet("anna"), reply=wire.Policy)[0] == small
    with refused("quota") as caught:
        bench.publish(app("a"), bundle=b"x" * 1001)
    assert "1,001 bytes" in caught.value.text
    with refused("quota"):
        bench.publish(app("a"), b"x" * 2001)
    bench.publish(app("a"), b"x" * 2000, bundle=b"x" * 1000)
    bench.publish(app("a"), b"z" * 2000, bundle=b"z" * 1000)
    with refused("quota") as caught:
        bench.publish(app("b"), b"y" * 900, bundle=b"y" * 200)
    assert "7,000" in caught.value.text
    bench.publish(static("c"), site(b"1"), bundle=b"1")
    with refused("manifest") as caught:
        bench.publish(static("d"), site(b"2"), bundle=b"2")
    assert "2 services" in caught.value.text
    bench.publish(static("e"), owner="bob")
    bench.consistent()


@pytest.mark.parametrize(
    "policy",
    [
        wire.Policy(suffixes=["*"]),
        wire.Policy(suffixes=["*.example.org", "example.org"], kinds=[]),
    ],
)
def test_policies_that_are_taken(bench: Bench, policy: wire.Policy) -> None:
    bench.ask("debug", "policy_set", wire.PolicySet("anna", policy), reply=wire.Done)
    bench.publish(app("a", hosts='["example.org"]'))


@pytest.mark.parametrize(
    "policy",
    [
        wire.Policy(suffixes=["*.*"]),
        wire.Policy(suffixes=["Example.org"]),
        wire.Policy(kinds=["clok"]),
        wire.Policy(memory=-1),
        wire.Policy(cpu=float("nan")),
    ],
)
def test_policies_that_are_refused(bench: Bench, policy: wire.Policy) -> None:
    with refused("malformed"):
        bench.ask("debug", "policy_set", wire.PolicySet("anna", policy))


def test_rollback_and_the_releases_that_are_kept(bench: Bench) -> None:
    ids = [bench.publish(app("a"), bundle=b"%d" % n).release for n in range(8)]
    listed = bench.ask("debug", "releases", wire.Releases("a"), reply=wire.ReleaseList)[0].releases
    assert [r.release for r in listed] == ids[:1:-1]
    bench.consistent()

    def back(release: str | None = None) -> wire.Published:
        got: wire.Published = bench.ask("debug", "rollback", wire.Rollback("a", release), reply=wire.Published)[0]
        return got

    bench.events.clear()
    assert back().release == ids[6]
    assert bench.warmed[-1].id == ids[6]
    assert bench.deltas("orchestrator")[0].gone == [ids[7]]
    assert back().release == ids[5]
    assert back(ids[7]).release == ids[7]
    assert back(ids[7]).unchanged
    assert back(ids[2]).release == ids[2]
    for wanted in (None, ids[0], "nonsense"):
        with refused("not-found"):
            back(wanted)
    bench.warm = lambda release: Refused("load-failed", "cannot")
    with refused("warm"):
        back(ids[7])
    assert bench.routes() == {"a.localhost/": ids[2]}
    bench.consistent()


def test_a_rollback_is_checked_against_today(bench: Bench) -> None:
    first = bench.publish(app("a", hosts='["x.localhost"]'), bundle=b"1")
    bench.publish(app("a"), bundle=b"2")
    bench.publish(app("b", hosts='["x.localhost"]'), bundle=b"3")
    with refused("manifest") as caught:
        bench.ask("debug", "rollback", wire.Rollback("a"))
    assert caught.value.text.startswith(f"release {first.release}, fildes.toml:4: hosts[0]")


def test_remove(bench: Bench) -> None:
    release = bench.publish(app("a")).release
    bench.publish(app("b"))
    value = memfd.sealed("v", b"x")
    bench.ask("debug", "secret_set", wire.SecretSet("a", "key"), [value], wire.Done)
    bench.events.clear()
    with refused("not-allowed"):
        bench.ask("debug", "remove", wire.Remove("a", "bob"))
    got = bench.ask("debug", "remove", wire.Remove("a", "anna"), reply=wire.Removed)[0]
    assert (got.service, got.releases) == ("a", 1)
    assert bench.deltas("web")[0].gone == [release]
    assert list(bench.routes()) == ["b.localhost/"]
    bench.settle()
    assert bench.forgotten == ["a"]
    bench.consistent()
    with refused("not-found"):
        bench.ask("debug", "remove", wire.Remove("a"))
    bench.publish(app("a", hosts='["c.localhost"]'), owner="bob")
    assert bench.warmed[-1].uid == 501_002  # not the uid that anna's "a" had
    assert bench.ask("debug", "secret_list", wire.SecretList("a"), reply=wire.SecretNames)[0].names == []


def test_secrets(bench: Bench) -> None:
    def put(service: str, name: str, value: bytes, owner: str | None = None) -> None:
        fd = memfd.sealed("secret", value)
        bench.ask("debug", "secret_set", wire.SecretSet(service, name, owner), [fd], wire.Done)

    put("a", "stripe", b"s3cret-one", "anna")
    put("a", "stripe", b"s3cret-two", "anna")
    release = bench.publish(app("a", more='[grants.key]\nkind = "secret"\nsecret = "stripe"\n')).release
    body, (fd,) = bench.ask("orchestrator", "open", Open("secret", "key", {}, release, "a"), reply=Opened)
    with fd:
        assert memfd.read_sealed(fd.fileno()) == b"s3cret-two"
    assert body.kind == "secret"
    with refused("no-grant") as caught:
        bench.ask("bus", "open", Open("secret", "other", {}, release, "a"))
    assert caught.value.grant == '[grants.other]\nkind = "secret"'
    assert bench.ask("debug", "secret_list", wire.SecretList("a"), reply=wire.SecretNames)[0].names == ["stripe"]
    for service, name, value, owner, code in [
        ("a", "x", b"", None, "malformed"),
        ("a", "../x", b"v", None, "malformed"),
        ("a", "x", b"v" * 70_000, None, "malformed"),
        ("a", "x", b"v", "bob", "not-allowed"),
        ("zz", "x", b"v", None, "not-found"),
    ]:
        with refused(code):
            put(service, name, value, owner)
    with refused("malformed"):
        plain = memfd.create("unsealed")
        bench.ask("debug", "secret_set", wire.SecretSet("a", "x"), [plain])
    with refused("not-found") as caught:
        bench.ask("debug", "secret_rm", wire.SecretRemove("a", "stripes"))
    assert 'did you mean "stripe"?' in caught.value.text
    bench.ask("debug", "secret_rm", wire.SecretRemove("a", "stripe"), reply=wire.Done)
    with refused("not-found"):
        bench.ask("orchestrator", "open", Open("secret", "key", {}, release, "a"))
    left = b"".join(path.read_bytes() for path in bench.path.glob("catalogue.db*"))
    assert b"s3cret" not in left


def test_services_are_listed(bench: Bench) -> None:
    bench.publish(app("b"))
    bench.publish(static("a"), owner="bob")
    body, (fd,) = bench.ask("debug", "services", wire.Services(), reply=wire.ServiceCount)
    with fd:
        listed = msgspec.msgpack.decode(memfd.read_sealed(fd.fileno()), type=list[wire.ServiceInfo])
    assert body.count == 2
    assert [(s.service, s.owner, s.urls) for s in listed] == [
        ("a", "bob", ["http://a.localhost:8080/"]),
        ("b", "anna", ["http://b.localhost:8080/"]),
    ]
    _, (fd,) = bench.ask("debug", "services", wire.Services("anna"), reply=wire.ServiceCount)
    with fd:
        assert len(msgspec.msgpack.decode(memfd.read_sealed(fd.fileno()))) == 1


def test_who_may_ask(bench: Bench) -> None:
    for sender in ("", "web", "release:abc", "debug"):
        with refused("not-allowed"):
            bench.ask(sender, "publish", wire.Publish("anna", wire.Manifest("a", "asgi"), "x"))
    with refused("not-allowed"):
        bench.ask("debug", "open", Open("secret", "x", {}, "x", "x"))
    with refused("not-allowed"):
        bench.ask("publish", "subscribe", wire.Subscribe())
    with refused("not-allowed"):
        bench.ask("publish", "policy_set", wire.PolicySet("anna", wire.Policy()))


def test_offers_reach_the_bus_as_plain_names(bench: Bench) -> None:
    bench.publish(app("a", more='[offers]\nto = ["b", "bob/c"]\n'))
    assert bench.snapshot("bus")[1][0].offers == ["b", "c"]
    bench.publish(app("c", more='[grants.x]\nkind = "connect"\nto = "a"\n'), owner="bob")
