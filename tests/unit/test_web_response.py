"""One response of a tenant passes, and nothing behind it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.web.response import Broken, Response

HEAD = b"HTTP/1.1 200 OK\r\n"


def make(**changes):
    return Response(**({"head_only": False, "old": False, "keep": True, "upgrade": False} | changes))


def passed(response, data, pieces=1):
    step = max(1, len(data) // pieces)
    return b"".join(response.feed(data[at : at + step]) for at in range(0, len(data), step))


@pytest.mark.parametrize("pieces", [1, 7, 1000])
@pytest.mark.parametrize(
    ("data", "out"),
    [
        (b"content-length: 5\r\n\r\nhello", b"content-length: 5\r\n\r\nhello"),
        (b"content-length: 5\r\nConnection: close, X-A\r\nX-A: 1\r\n\r\nhello", b"content-length: 5\r\n\r\nhello"),
        (b"Content-Length: 0\r\nKeep-Alive: 9\r\n\r\n", b"Content-Length: 0\r\n\r\n"),
    ],
)
def test_a_sized_response(data, out, pieces):
    response = make()
    assert passed(response, HEAD + data, pieces) == HEAD + out
    assert response.done and response.keep and response.status == 200
    assert response.feed(HEAD + b"content-length: 4\r\n\r\nevil") == b"", "one too many"


def test_what_comes_behind_it_in_the_same_piece_is_dropped():
    response = make()
    assert response.feed(HEAD + b"content-length: 2\r\n\r\nhi" + HEAD + b"\r\n").endswith(b"\r\nhi")


@pytest.mark.parametrize("pieces", [1, 9, 1000])
def test_chunks_and_trailers(pieces):
    response = make()
    data = b"transfer-encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\nmore"
    out = passed(response, HEAD + data, pieces)
    assert out.endswith(b"0\r\nX-Sum: 5\r\n\r\n") and response.done and response.keep and response.size == 5
    assert b";x" not in out and b"more" not in out


def test_a_trailer_that_frames_is_refused():
    response = make()
    with pytest.raises(Broken):
        response.feed(HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\n\r\n")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_statuses_without_a_body(status):
    response = make()
    out = response.feed(b"HTTP/1.1 " + status + b"\r\ncontent-length: 9\r\n\r\nsneaky")
    assert out.endswith(b"9\r\n\r\n") and response.done


def test_head_has_no_body():
    response = make(head_only=True)
    assert response.feed(HEAD + b"content-length: 9\r\n\r\nsneaky!!!").endswith(b"9\r\n\r\n") and response.done


def test_until_the_end_of_the_stream():
    response = make()
    out = response.feed(HEAD + b"\r\nabc") + response.feed(b"def")
    assert out == HEAD + b"connection: close\r\n\r\nabcdef" and not response.keep and not response.done
    assert response.end() and response.done


def test_cut_off():
    response = make()
    response.feed(HEAD + b"content-length: 5\r\n\r\nhel")
    assert not response.end()
    assert not make().end()


def test_interim_responses():
    response = make()
    out = response.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
    assert out.startswith(b"HTTP/1.1 100 ") and b"103 Early Hints\r\nLink: x" in out and not response.begun
    assert response.feed(HEAD + b"content-length: 0\r\n\r\n") and response.done
    assert make(old=True).feed(b"HTTP/1.1 100 Continue\r\n\r\n") == b""
    with pytest.raises(Broken):
        make().feed(b"HTTP/1.1 100 Continue\r\n\r\n" * 20)


def test_another_protocol():
    response = make(upgrade=True)
    data = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00"
    assert response.feed(data) == data and response.switched and not response.keep
    with pytest.raises(Broken):
        make().feed(data)


def test_an_answer_before_the_request_is_complete_ends_the_connection():
    response = make()
    response.early = True
    assert b"connection: close" in response.feed(HEAD + b"content-length: 0\r\n\r\n") and not response.keep


def test_an_old_client_gets_no_chunks_and_no_second_request():
    response = make(old=True)
    assert b"connection: close" in response.feed(HEAD + b"content-length: 0\r\n\r\n") and not response.keep
    with pytest.raises(Broken):
        make(old=True).feed(HEAD + b"transfer-encoding: chunked\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 999 OK\r\n\r\n",
        b"HTTP/1.1 200 O\nK\r\n\r\n",
        HEAD + b"content-length: 5\r\ncontent-length: 5\r\n\r\n",
        HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        HEAD + b"content-length: +5\r\n\r\n",
        HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n",
        HEAD + b"x-a : 1\r\n\r\n",
        HEAD + b"x-a: 1\nx-b: 2\r\n\r\n",
        HEAD + b" folded: 1\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"x" * 70000,
    ],
)
def test_what_is_no_response_is_not_passed_on(data):
    with pytest.raises(Broken):
        make().feed(data)


@given(st.binary(max_size=300), st.integers(1, 20))
def test_however_it_is_cut(data, pieces):
    """The same goes out, or it is broken, in one piece and in many."""

    def outcome(count):
        response = make()
        try:
            return passed(response, HEAD + b"content-length: 40\r\n\r\n" + data, count), response.done
        except Broken:
            return None

    assert outcome(1) == outcome(pieces)
