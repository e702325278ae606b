"""From a request's head and a site to a Plan. Pure but for reads from the pack.

Paths are looked up in the pack's index, and nowhere else: there is nothing outside to reach.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_from_bytes, unquote, unquote_to_bytes

from fildes.pages import headers, redirects
from fildes.pages.lines import canonical
from fildes.pages.redirects import MOVED, Target
from fildes.pages.types import content_type
from fildes.pages.variants import FOLDERS, ROOT, accepted, compressible, place
from fildes.static.conditions import byte_range, http_date, precondition
from fildes.static.plan import SMALL, Plan, head
from fildes.wire.http import Head, refusal
from fildes.wire.http_fields import Bad

if TYPE_CHECKING:
    from fildes.pack.reader import Entry
    from fildes.static.sites import Site

_ESCAPED_SLASH: Final = re.compile(rb"%2[Ff]|%5[Cc]").search
# Ours, not the site's.
_HIDDEN: Final = ("/fildes.toml", f"/{headers.FILE}", f"/{redirects.FILE}")
# Names with a dot in front are not served (.env, .git), but for those that are meant to be public: RFC 8615, and what
# generators of sites write beside the pages.
_SHOWN: Final = frozenset({".well-known", ".buildinfo", ".nojekyll"})
_SAFE: Final = "/!$&'()*+,;=:@-._~"

Fields = dict[str, str | int]


def answer(request: Head, site: Site, prefix: str) -> Plan:
    """`prefix` is the route's, "/" or "/docs": what lies below it is the site."""
    method = request.line.method
    keep = request.keep_alive and not request.has_body
    shape = _Shape(keep, request.line.version == "1.0", method == "HEAD")
    if method not in ("GET", "HEAD"):
        return shape.text(405, "This is a static site: it answers GET and HEAD.", {"allow": "GET, HEAD"})
    raw = request.line.raw_path
    normal = _normal(raw)
    if normal is None or _ESCAPED_SLASH(raw):
        return _not_found(request, site, shape, "/")
    if normal != raw:
        return shape.moved(normal, request.line.query)
    above = prefix.rstrip("/")
    inner = unquote_to_bytes(normal).decode("utf-8", "surrogateescape")[len(above) :]
    if not inner:
        return shape.moved(normal + b"/", request.line.query)
    path = canonical(inner)
    target = site.redirects.forced(path)
    found = None if target or _is_hidden(inner) else _find(site, inner)
    if found is not None and found.is_dir:
        return shape.moved(normal + b"/", request.line.query)
    if found is not None:
        return _file(request, site, found, shape, site.headers.of(path))
    target = target or site.redirects.find(path)
    if target is None:
        return _not_found(request, site, shape, path)
    if target.status in MOVED:
        return shape.redirect(target, above, request.line.query)
    found = _find(site, unquote(target.where, errors="surrogateescape"))
    if found is None or found.is_dir:
        return _not_found(request, site, shape, path)
    if target.status == 200:
        return _file(request, site, found, shape, site.headers.of(path))
    return _page(request, site, found, shape, target.status, site.headers.of(path))


def _find(site: Site, inner: str) -> Entry | None:
    """The file for a path of the site, or the directory that the path lacks its slash for."""
    if inner.endswith("/"):
        folder = site.pack.lookup(ROOT + inner.rstrip("/"))
        entry = site.pack.lookup(f"{ROOT}{inner}index.html") if folder is not None else None
        return None if entry is None or entry.is_dir else entry
    entry = site.pack.lookup(ROOT + inner)
    if entry is None or (entry.is_dir and site.pack.lookup(f"{ROOT}{inner}/index.html") is None):
        page = site.pack.lookup(f"{ROOT}{inner}.html")  # "/about" for about.html, as hosts have it
        return entry if page is None or page.is_dir else page
    return entry


def _normal(raw: bytes) -> bytes | None:
    """The path without dot segments and empty ones, otherwise as it was; None if it would climb out."""
    if b"//" not in raw and b"." not in raw and b"%2" not in raw:
        return raw
    kept: list[bytes] = []
    segments = raw.split(b"/")[1:]
    for number, segment in enumerate(segments, 1):
        plain = unquote_to_bytes(segment)
        if plain == b"..":
            if not kept:
                return None
            kept.pop()
        elif plain not in (b"", b"."):
            kept.append(segment)
            continue
        if number == len(segments) and kept:
            kept.append(b"")
    return b"/" + b"/".join(kept)


def _is_hidden(inner: str) -> bool:
    if inner in _HIDDEN:
        return True
    return "/." in inner and any(s.startswith(".") and s not in _SHOWN for s in inner.split("/"))


class _Shape:
    """What all answers to one request have in common."""

    def __init__(self, keep: bool, old: bool, head_only: bool) -> None:
        self.keep, self.old, self.head_only = keep, old, head_only

    def text(self, status: int, sentence: str, fields: Fields | None = None) -> Plan:
        body = f"{sentence}\n".encode()
        fields = {"content-type": "text/plain; charset=utf-8", "content-length": len(body), **(fields or {})}
        return self.plan(status, fields, body)

    def moved(self, path: bytes, query: bytes) -> Plan:
        # One slash in front and none doubled: it can't lead to another host.
        where = quote_from_bytes(path, safe=_SAFE + "%") + (f"?{query.decode('latin-1')}" if query else "")
        return self.text(301, f"It is at {where}", {"location": where})

    def redirect(self, target: Target, above: str, query: bytes) -> Plan:
        """As a line of _redirects says; the query of the request goes along unless the line has one."""
        where = target.where if "://" in target.where else f"{quote(above, safe=_SAFE)}{target.where}"
        if query and "?" not in where and "#" not in where:
            where += f"?{query.decode('latin-1')}"
        return self.text(target.status, f"It is at {where}", {"location": where})

    def plan(self, status: int, fields: Fields, body: bytes) -> Plan:
        start = head(status, fields, keep=self.keep, old=self.old)
        return Plan(start, b"" if self.head_only else body, close=not self.keep)


def _not_found(request: Head, site: Site, shape: _Shape, path: str) -> Plan:
    page = site.pack.lookup(f"{ROOT}/404.html")
    if page is None or page.is_dir:
        return shape.text(404, "There is nothing at this address.")
    return _page(request, site, page, shape, 404, site.headers.of(path))


def _page(request: Head, site: Site, entry: Entry, shape: _Shape, status: int, custom: dict[str, str]) -> Plan:
    """A file that answers for something that is not there."""
    if entry.size > SMALL:
        return shape.text(status, "There is nothing at this address.")
    coding, sent, varies = _coded(request, site, entry)
    fields: Fields = {"content-type": content_type(entry.path)}
    fields |= {**varies, **custom, **coding, "content-length": sent.size}
    return shape.plan(status, fields, site.pack.read(sent))


def _coded(request: Head, site: Site, entry: Entry) -> tuple[Fields, Entry, Fields]:
    """Which of its codings a file is sent in: (the field for it, what to send, what the answer varies by)."""
    if not site.has_variants or not compressible(entry.path):
        return {}, entry, {}
    found = {coding: made for coding in FOLDERS if (made := site.pack.lookup(place(coding, entry.path))) is not None}
    if not found:
        return {}, entry, {}
    headers = request.fields.headers
    varies: Fields = {"vary": "accept-encoding"}
    # A part is one of the file as it is: what has a part of that already can go on.
    if not any(name == b"range" for name, _ in headers):
        for coding in accepted([value for name, value in headers if name == b"accept-encoding"]):
            if coding in found:
                return {"content-encoding": coding}, found[coding], varies
    return {}, entry, varies


def _file(request: Head, site: Site, entry: Entry, shape: _Shape, custom: dict[str, str]) -> Plan:
    coding, sent, varies = _coded(request, site, entry)
    etag = f'"{sent.etag.hex()}"'
    mtime = max(0, entry.mtime)
    fields: Fields = {"etag": etag, **varies}
    if mtime:
        fields["last-modified"] = http_date(mtime)
    fields |= custom
    headers = request.fields.headers
    status = precondition(headers, etag.encode(), mtime)
    if status == 304:
        fields.pop("content-type", None)
        return shape.plan(304, fields, b"")
    if status == 412:
        return shape.text(412, "It is not what the request expects any more.", {"etag": etag})
    first, count, code = 0, sent.size, 200
    part = byte_range(headers, sent.size, etag.encode(), mtime) if request.line.method == "GET" else "whole"
    if part == "none":
        return shape.text(416, "The range lies beyond the end.", {"content-range": f"bytes */{sent.size}"})
    if part != "whole":
        (first, count), code = part, 206
        fields["content-range"] = f"bytes {first}-{first + count - 1}/{sent.size}"
    fields = {"content-type": content_type(entry.path)} | fields | coding
    fields |= {"content-length": count, "accept-ranges": "bytes"}
    start = head(code, fields, keep=shape.keep, old=shape.old)
    if shape.head_only:
        return Plan(start, close=not shape.keep)
    if count <= SMALL:
        return Plan(start, site.read(sent.offset + first, count), close=not shape.keep)
    return Plan(start, close=not shape.keep, site=site, offset=sent.offset + first, count=count)


def refused(bad: Bad) -> Plan:
    """For a head that is no request."""
    start, _, body = refusal(bad).partition(b"\r\n\r\n")
    return Plan(start + b"\r\n", body, close=True)


def unavailable(request: Head) -> Plan:
    return _passing(request, 503, "The site's files can't be read now.", {"retry-after": 1})


def unknown(request: Head) -> Plan:
    return _passing(request, 404, f"There is no site for this host: {request.host}", {})


def _passing(request: Head, status: int, sentence: str, fields: Fields) -> Plan:
    plan = _Shape(False, False, request.line.method == "HEAD").text(status, sentence, fields)
    plan.passing = True
    return plan
