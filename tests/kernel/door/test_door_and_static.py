"""The two daemons together: one client's connection between an app and sites, and either of them killed."""

from __future__ import annotations

import http.client
import threading

import pytest


@pytest.fixture
def both(door, static):
    """The real door's conveyor in the real static daemon. Sites: s.test, a.test/site; a.test itself is an app."""
    routes = [*static.routes]
    static.kill()
    static.door = door
    for key in list(static.store.deposits):
        static.on_stage(lambda key=key: static.store._drop(key.encode()))

    def site(host, release, prefix):
        return type(routes[0])(host, prefix, "site", release, "anna", "static")

    mixed = site("a.test", "6666", "/site")
    static.routes = [*routes, mixed]
    door.delta([*routes, mixed])
    static.start()
    return door, static


def test_one_connection_to_everything(both, kit):
    door, _ = both
    app = door.instance("aaaa")
    client = http.client.HTTPConnection(*door.address, timeout=10)

    def ask(host, path):
        client.request("GET", path, headers={"Host": host})
        return client.getresponse().read()

    def serve_and_hand_back():
        """An app that answers one request and hands the connection back for the next."""
        for _ in range(4):
            connection, sock = app.one()
            app.take(connection.serial)
            app.begin(connection.serial)
            sock.sendall(kit.response(b"app", close=False))
            app.hand_back(connection.serial, b"", sock)
            sock.close()

    server = threading.Thread(target=serve_and_hand_back)
    server.start()
    for _ in range(2):
        assert ask("s.test", "/style.css") == b"body {}"
        assert ask("a.test", "/site/") == b"t docs"
        assert ask("a.test", "/") == b"app"
        assert ask("a.test", "/site/sub/") == b"t sub"
        assert ask("a.test", "/api") == b"app"
    server.join()
    client.close()
    counts = door.counts()
    assert counts.releases["static"].returned >= 2 and counts.releases["aaaa"].returned == 4
    kit.until(lambda: door.counts().reading == 0)
    app.close()


@pytest.mark.parametrize("who", ["door", "static", "both"])
def test_killed_under_load(both, kit, who):
    """Requests go on; only what was in the hands of the killed process may fail, and is asked again."""
    door, _ = both
    killed = [stage for stage in both if who == "both" or stage.name == {"door": "web"}.get(who, who)]
    stop = threading.Event()
    done = [0] * 4

    def ask(number):
        while not stop.is_set():
            try:
                with door.connect() as sock:
                    sock.sendall(kit.get("s.test", "/style.css", extra="Connection: close\r\n"))
                    if kit.read_all(sock).endswith(b"body {}"):
                        done[number] += 1
            except OSError:
                continue

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before = sum(done)
            kit.until(lambda before=before: sum(done) > before + 50)
            for stage in killed:
                stage.kill()
            for stage in killed:
                stage.start()
        before = list(done)
        kit.until(lambda: all(now > then + 10 for now, then in zip(done, before, strict=True)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_what_static_had_taken_when_it_died(both, kit):
    door, static = both
    door.delta([kit.route("new.test", "7777", runtime="static")])  # which static does not know: it waits for the word
    with door.connect() as held:
        held.sendall(kit.get("new.test"))
        kit.until(lambda: door.counted("static").sent == 1 and door.counted("static").queued == 0)
        static.kill()
        static.start()
        assert kit.read_all(held).startswith(b"HTTP/1.1 502 ")


def test_static_never_holds_what_a_tenant_may_have_kept(both, kit):
    """It could make static's writes block. So the door relays one answer, and the connection ends."""
    door, _ = both
    app = door.instance("aaaa")
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        connection, kept = app.one()
        app.begin(connection.serial)
        app.hand_back(connection.serial, kit.get("a.test", "/site/"), kept)
        kept.setblocking(True)
        answer = b""
        while not answer.endswith(b"t docs"):
            answer += client.recv(4096)
        assert b"connection: close" in answer
        client.sendall(kit.get("a.test", "/site/"))  # an answer to this would be one too many
        kept.close()
        assert kit.read_all(client) == b""
    with door.connect() as client:
        client.sendall(kit.get("a.test"))
        connection, kept = app.one()
        app.begin(connection.serial)
        app.hand_back(connection.serial, b"", kept)
        kit.until(lambda: door.counts().reading == 1)
        kept.setblocking(True)
        client.sendall(kit.get("a.test", "/site/"))
        assert b"t docs" in client.recv(4096)
        kept.close()
    app.close()
