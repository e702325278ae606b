"""The head of a response, from what a WSGI program gives to start_response. Pure but for a bounded table."""

from __future__ import annotations

import re
from typing import Any

from fildes.runtime.response import Prepared, prepare

_REMEMBERED_HEADS = 256
_REMEMBERED_BYTES = 1024

_status = re.compile(r"([2-5][0-9][0-9])(?: ([\t -~\xa0-\xff]*))?").fullmatch
_heads: dict[Any, Prepared] = {}


def of(status: str, headers: list[tuple[str, str]]) -> Prepared:
    """Raises TypeError or ValueError, with a sentence, for what can't be sent: the program's mistake."""
    key: Any = (status, tuple(headers))
    try:
        prepared = _heads.get(key)
    except TypeError:  # a header that is a list, say
        prepared = None
        key = (status, tuple([tuple(pair) for pair in headers]))
    if prepared is None:
        prepared = _prepare(status, key[1])
        if len(prepared.text) <= _REMEMBERED_BYTES and b"\r\nset-cookie:" not in prepared.text.lower():
            if len(_heads) >= _REMEMBERED_HEADS:
                _heads.clear()
            _heads[key] = prepared
    return prepared


def _prepare(status: str, pairs: tuple[Any, ...]) -> Prepared:
    if not isinstance(status, str):
        raise TypeError(f'start_response: the status {status!r} is not text such as "200 OK"')
    found = _status(status)
    if found is None:
        raise ValueError(
            f'start_response: the status {status!r} is not a number from 200 to 599 and a phrase: "200 OK"'
        )
    prepared = prepare(int(found[1]), [_encoded(pair) for pair in pairs])
    # The phrase is the program's (PEP 3333: "the status line"); `prepare` writes the usual one.
    text = (
        b"HTTP/1.1 " + f"{found[1]} {found[2] or ''}".encode("latin-1") + prepared.text[prepared.text.index(b"\r\n") :]
    )
    return Prepared(text, prepared.length, prepared.close, prepared.bodyless)


def _encoded(pair: Any) -> tuple[bytes, bytes]:
    try:
        name, value = pair
        return name.encode("ascii"), value.encode("latin-1")
    except (AttributeError, UnicodeEncodeError, TypeError, ValueError):
        raise TypeError(f"start_response: the header {pair!r} is not a pair of native strings (Latin-1)") from None
