"""The static daemon: files out of packs, to real clients."""

from __future__ import annotations

import http.client
import socket
import subprocess
import threading
import time

import pytest

from fildes.wire import conveyor

MTIME = "Tue, 14 Nov 2023 22:13:20 GMT"
LATER = "Wed, 15 Nov 2023 22:13:20 GMT"
EARLIER = "Mon, 13 Nov 2023 22:13:20 GMT"


@pytest.fixture
def client(static):
    connection = http.client.HTTPConnection(*static.address, timeout=10)
    yield connection
    connection.close()


def ask(client, path, method="GET", host="s.test", **headers):
    sent = {"Host": host} | {name.replace("_", "-"): value for name, value in headers.items()}
    client.request(method, path, headers=sent)
    response = client.getresponse()
    return response, response.read()


def test_curl_gets_a_page(static):
    url = f"http://127.0.0.1:{static.address[1]}/"
    done = subprocess.run(["curl", "-si", "-H", "Host: s.test", url], capture_output=True, timeout=10, check=True)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert body == b"<h1>home</h1>"
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert fields["content-type"] == "text/html; charset=utf-8"
    assert fields["last-modified"] == MTIME
    assert fields["accept-ranges"] == "bytes"
    assert len(fields["etag"]) == 34 and fields["date"].endswith("GMT")


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/index.html", 200, b"<h1>home</h1>"),
        ("/?q=1", 200, b"<h1>home</h1>"),
        ("/docs/", 200, b"docs"),
        ("/docs", 301, "/docs/"),
        ("/docs?a=b&c", 301, "/docs/?a=b&c"),
        ("/docs/a%20b.txt", 200, b"with a blank"),
        ("/docs/%C3%A4.html", 200, b"umlaut"),
        ("/nothing.txt", 200, b""),
        ("/empty/", 404, b"<h1>lost</h1>"),
        ("/empty", 301, "/empty/"),
        ("/index.html/", 404, b"<h1>lost</h1>"),
        ("/none", 404, b"<h1>lost</h1>"),
        ("/.secret", 404, b"<h1>lost</h1>"),
        ("/%2esecret", 404, b"<h1>lost</h1>"),
        ("/fildes.toml", 404, b"<h1>lost</h1>"),
        ("/.well-known/security.txt", 200, b"contact"),
        ("/docs/../style.css", 301, "/style.css"),
        ("/docs/%2e%2E/style.css", 301, "/style.css"),
        ("/../../etc/passwd", 404, b"<h1>lost</h1>"),
        ("/..%2f..%2fetc/passwd", 404, b"<h1>lost</h1>"),
        ("/docs%2findex.html", 404, b"<h1>lost</h1>"),
        ("/..%5cx", 404, b"<h1>lost</h1>"),
        ("//evil.test/..", 301, "/"),
        ("//docs", 301, "/docs"),
        ("/docs//a%20b.txt", 301, "/docs/a%20b.txt"),
        ("/app/index.html", 404, b"<h1>lost</h1>"),
        ("/%ff", 404, b"<h1>lost</h1>"),
    ],
)
def test_paths(client, path, status, detail):
    for _ in range(2):  # the second answer is a remembered one
        response, body = ask(client, path)
        assert response.status == status
        if status == 301:
            assert response.headers["location"] == detail
        else:
            assert body == detail


def test_a_prefix_is_the_root_of_its_site(client):
    assert ask(client, "/docs", host="t.test")[0].headers["location"] == "/docs/"
    assert ask(client, "/docs/", host="t.test")[1] == b"t docs"
    assert ask(client, "/docs/sub?x", host="t.test")[0].headers["location"] == "/docs/sub/?x"
    assert ask(client, "/docs/sub/", host="t.test")[1] == b"t sub"


def test_head_and_other_methods(client):
    response, body = ask(client, "/style.css", "HEAD")
    assert response.status == 200 and response.headers["content-length"] == "7" and body == b""
    assert response.headers["content-type"] == "text/css; charset=utf-8"
    response, _ = ask(client, "/large.bin", "HEAD")
    assert response.headers["content-length"] == str(256 * 4000)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"):
        response, _ = ask(client, "/style.css", method)
        assert response.status == 405 and response.headers["allow"] == "GET, HEAD"


def test_conditions(client):
    etag = ask(client, "/style.css")[0].headers["etag"]
    cases = [
        ({"If_None_Match": etag}, 304),
        ({"If_None_Match": f'"x", W/{etag}'}, 304),
        ({"If_None_Match": "*"}, 304),
        ({"If_None_Match": '"x"'}, 200),
        ({"If_None_Match": '"x"', "If_Modified_Since": LATER}, 200),
        ({"If_Modified_Since": MTIME}, 304),
        ({"If_Modified_Since": LATER}, 304),
        ({"If_Modified_Since": EARLIER}, 200),
        ({"If_Modified_Since": "yesterday"}, 200),
        ({"If_Match": etag}, 200),
        ({"If_Match": f"W/{etag}"}, 412),
        ({"If_Match": '"x"'}, 412),
        ({"If_Unmodified_Since": EARLIER}, 412),
        ({"If_Unmodified_Since": LATER}, 200),
    ]
    for headers, status in cases:
        response, body = ask(client, "/style.css", **headers)
        assert response.status == status, headers
        assert (body == b"body {}") == (status == 200)
        assert response.headers["etag"] == etag


@pytest.mark.parametrize(
    ("value", "status", "first", "last"),
    [
        ("bytes=0-0", 206, 0, 0),
        ("bytes=5-9", 206, 5, 9),
        ("bytes=5-", 206, 5, 10239),
        ("bytes=-5", 206, 10235, 10239),
        ("bytes=-99999", 206, 0, 10239),
        ("bytes=10000-99999", 206, 10000, 10239),
        ("bytes=10240-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=9-5", 200, 0, 10239),
        ("bytes=0-1,3-4", 200, 0, 10239),
        ("lines=1-2", 200, 0, 10239),
        ("bytes=a-b", 200, 0, 10239),
        ("bytes=-", 200, 0, 10239),
    ],
)
def test_ranges(client, kit, value, status, first, last):
    data = kit.FILES["ten.bin"]
    response, body = ask(client, "/ten.bin", Range=value)
    assert response.status == status
    if status == 416:
        assert response.headers["content-range"] == "bytes */10240"
        return
    assert body == data[first : last + 1]
    expected = f"bytes {first}-{last}/10240" if status == 206 else None
    assert response.headers["content-range"] == expected


def test_if_range(client, kit):
    data = kit.FILES["ten.bin"]
    etag = ask(client, "/ten.bin")[0].headers["etag"]
    for value, status in [(etag, 206), ('"other"', 200), (MTIME, 206), (LATER, 200), (f"W/{etag}", 200)]:
        response, body = ask(client, "/ten.bin", Range="bytes=0-9", If_Range=value)
        assert response.status == status, value
        assert body == (data[:10] if status == 206 else data)


def test_a_large_file_and_a_part_of_it(client, kit):
    data = kit.FILES["large.bin"]
    for _ in range(2):
        assert ask(client, "/large.bin")[1] == data
        assert ask(client, "/large.bin", Range="bytes=100-900000")[1] == data[100:900001]


def test_pipelined_requests_are_answered_in_order(static, kit):
    paths = ["/", "/style.css", "/large.bin", "/none", "/docs/", "/ten.bin"] * 5
    with static.connect() as sock:
        sender = threading.Thread(target=sock.sendall, args=(b"".join(kit.get("s.test", path) for path in paths[:-1]),))
        sender.start()
        sender.join()
        sock.sendall(kit.get("s.test", paths[-1], extra="Connection: close\r\n"))
        reader = sock.makefile("rb")
        for path in paths:
            status = int(reader.readline().split()[1])
            length = 0
            while (line := reader.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                if name == b"content-length":
                    length = int(value)
            body = reader.read(length)
            name = path[1:] + "index.html" if path.endswith("/") else path[1:]
            assert body == kit.FILES.get(name, kit.FILES["404.html"])
            assert status == (200 if name in kit.FILES else 404)
        assert reader.read() == b""


def test_heads_in_pieces(static, kit):
    data = kit.get("s.test", "/style.css", extra="Connection: close\r\n")
    with static.connect() as sock:
        sock.sendall(data[:5])
        kit.until(lambda: static.done)
        for at in range(5, len(data)):
            sock.sendall(data[at : at + 1])
        assert kit.read_all(sock).endswith(b"body {}")


@pytest.mark.slow
def test_a_slow_head_gets_408(static, kit):
    with static.connect() as sock:
        sock.sendall(kit.get("s.test", "/style.css") + b"GET /")
        assert sock.recv(4096).endswith(b"body {}")
        began = time.monotonic()
        for second in range(1, 9):
            sock.sendall(b"x")
            kit.until(lambda second=second: time.monotonic() - began > second)
        assert kit.read_all(sock).startswith(b"HTTP/1.1 408 ")
        assert 9 < time.monotonic() - began < 20


def test_a_client_that_never_closes_is_closed(static, kit):
    with static.connect() as sock:
        sock.sendall(kit.get("s.test", "/style.css", extra="Connection: close\r\n"))
        assert kit.read_all(sock).endswith(b"body {}")
        before = static.fd_count()
        kit.until(lambda: static.fd_count() == before - 1, seconds=5)


def test_a_slow_reader_gets_it_all_and_holds_nobody_up(static, kit):
    data = kit.FILES["large.bin"] * 4
    static.site("7777", {"huge.bin": data})
    static.delta([kit.route("u.test", "7777", runtime="static")])
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.settimeout(10)
    slow.connect(static.address)
    with slow:
        slow.sendall(kit.get("u.test", "/huge.bin", extra="Connection: close\r\n"))
        kit.until(lambda: 1 in static.done)
        for _ in range(20):
            with static.connect() as quick:
                quick.sendall(kit.get("s.test", "/style.css", extra="Connection: close\r\n"))
                assert kit.read_all(quick).endswith(b"body {}")
        assert kit.read_all(slow).partition(b"\r\n\r\n")[2] == data


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: s.test\r\nHost: s.test\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\nHost: s.test\r\n\r\n", 400),
        (b"GET /%00 HTTP/1.1\r\nHost: s.test\r\n\r\n", 400),
        (b"garbage\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: s.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: s.test\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000), 405),
        (b"GET / HTTP/1.1\r\nHost: s.test\r\nContent-Length: 5\r\n\r\nGET /", 200),
    ],
)
def test_oddities_end_the_connection(static, kit, data, status):
    with static.connect() as sock:
        sock.sendall(kit.get("s.test", "/style.css"))  # and then, on a connection that is owned
        assert sock.recv(4096).endswith(b"body {}")
        sock.sendall(data)
        answer = kit.read_all(sock)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"HTTP/1.1") == 1 and b"connection: close" in answer


def test_http_1_0(static, kit):
    with static.connect() as sock:
        sock.sendall(b"GET /style.css HTTP/1.0\r\nHost: s.test\r\n\r\n")
        assert b"connection: close" in kit.read_all(sock)
    with static.connect() as sock:
        sock.sendall(b"GET /style.css HTTP/1.0\r\nHost: s.test\r\nConnection: keep-alive\r\n\r\n")
        assert b"connection: keep-alive" in sock.recv(4096)
        sock.sendall(b"GET /style.css HTTP/1.0\r\nHost: s.test\r\n\r\n")
        assert kit.read_all(sock).endswith(b"body {}")


def test_another_host_on_the_same_connection(static, kit):
    with static.connect() as sock:
        sock.sendall(kit.get("s.test", "/style.css"))
        assert sock.recv(4096).endswith(b"body {}")
        sock.sendall(kit.get("t.test", "/docs/"))  # also a site: no detour
        assert sock.recv(4096).endswith(b"t docs")
        two = kit.get("app.test", "/1") + kit.get("s.test", "/style.css")
        sock.sendall(two)
        back, handed = static.returned.get(timeout=10)
        assert back.head == two and back.serial == 1
        handed.sendall(kit.response(b"the app"))
        handed.close()
        assert kit.read_all(sock).endswith(b"the app")


@pytest.mark.parametrize("how", ["flag", "event"])
def test_on_a_host_with_other_routes_only_the_first_request_is_ours(static, kit, how):
    if how == "flag":
        static.flags = conveyor.ONCE
    else:
        from fildes.wire import web as web_wire

        static.mixed = ["s.test"]
        static.on_stage(lambda: static.peer.tell("static.mixed", web_wire.Mixed(["s.test"])))
        with static.connect() as sock:
            sock.sendall(kit.get("t.test", "/docs/"))
            assert sock.recv(4096).endswith(b"t docs")
    for _ in range(2):
        with static.connect() as sock:
            sock.sendall(kit.get("s.test", "/style.css"))
            assert sock.recv(4096).endswith(b"body {}")
            sock.sendall(kit.get("s.test", "/api"))
            back, handed = static.returned.get(timeout=10)
            seen = back.head or handed.recv(4096)
            assert seen == kit.get("s.test", "/api")
            static.pass_on(handed, kit.get("s.test", "/docs/"), static.flags)
            assert sock.recv(4096).endswith(b"docs")


def test_a_new_release_is_seen_at_once(static, kit, client):
    assert ask(client, "/style.css")[1] == b"body {}"
    static.site("5556", {"style.css": b"new"})
    static.delta([kit.route("s.test", "5556", runtime="static")], ["5555"])
    kit.until(lambda: ask(client, "/style.css")[1] == b"new")
    assert static.opened == ["5555", "5556"]


def test_a_site_that_the_catalogue_has_not_named_yet(static, kit):
    static.site("8888", {"index.html": b"brand new"})
    with static.connect() as sock:
        sock.sendall(kit.get("new.test", extra="Connection: close\r\n"))
        kit.until(lambda: 1 in static.taken)
        static.delta([kit.route("new.test", "8888", runtime="static")])
        assert kit.read_all(sock).endswith(b"brand new")
        kit.until(lambda: 1 in static.done)
    with static.connect() as other:
        other.sendall(kit.get("never.test"))
        assert kit.read_all(other).startswith(b"HTTP/1.1 404 ")


def test_a_pack_that_cannot_be_had(static, kit, client):
    static.delta([kit.route("w.test", "9999", runtime="static")])
    response, _ = kit.until(lambda: ask(client, "/", host="w.test") or None)
    assert response.status == 503 and response.headers["retry-after"] == "1"
    static.site("9999", {"index.html": b"there"})
    kit.until(lambda: ask(client, "/", host="w.test")[1] == b"there")


def test_killed_and_back(static, kit):
    with static.connect() as sock:
        sock.sendall(kit.get("s.test", extra="Connection: close\r\n"))
        kit.read_all(sock)
    kit.until(lambda: "conveyor" in static.store.deposits)
    static.kill()
    with static.connect() as sock:
        sock.sendall(kit.get("s.test", extra="Connection: close\r\n"))
        began = time.monotonic()
        static.start()
        assert kit.read_all(sock).endswith(b"home</h1>")
        assert time.monotonic() - began < 5


def test_ten_thousand_requests_leave_no_descriptor(static, kit):
    def once(data: bytes) -> None:
        with static.connect() as sock:
            sock.sendall(data)
            kit.read_all(sock)

    close = "Connection: close\r\n"
    kinds = [
        kit.get("s.test", "/large.bin", extra=close),
        kit.get("s.test", "/style.css", extra=close),
        kit.get("s.test", "/none", extra=close),
        b"garbage\0\r\n\r\n",
        kit.get("s.test", "/", "POST", close),
    ]
    for data in kinds:
        once(data)
    kit.until(lambda: static.fd_count() > 0)
    before = static.fd_count()
    for n in range(2000):
        once(kinds[n % len(kinds)])
    with static.connect() as sock:
        reader = sock.makefile("rb")
        for _ in range(8000):
            sock.sendall(kit.get("s.test", "/style.css"))
            while reader.readline() != b"\r\n":
                pass
            reader.read(7)
        reader.close()
    kit.until(lambda: static.fd_count() <= before, f"{static.fd_count()} now, {before} before")
