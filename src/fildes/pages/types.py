"""Content types by extension. A table of our own: the system's differs from machine to machine."""

from __future__ import annotations

from typing import Final

_TYPES: Final = """
text/html html htm xhtml
text/css css
text/javascript js mjs
text/plain txt text log conf ini toml yaml yml rst py c h sh
text/markdown md markdown
text/csv csv
text/tab-separated-values tsv
text/vtt vtt
text/calendar ics
text/vcard vcf
application/json json map
application/ld+json jsonld
application/geo+json geojson
application/manifest+json webmanifest
application/xml xml xsl
application/rss+xml rss
application/atom+xml atom
application/wasm wasm
application/pdf pdf
application/epub+zip epub
application/zip zip
application/gzip gz tgz
application/x-bzip2 bz2
application/x-xz xz
application/zstd zst
application/x-tar tar
application/x-7z-compressed 7z
application/msword doc
application/vnd.openxmlformats-officedocument.wordprocessingml.document docx
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx
application/vnd.openxmlformats-officedocument.presentationml.presentation pptx
application/vnd.oasis.opendocument.text odt
application/vnd.oasis.opendocument.spreadsheet ods
application/vnd.android.package-archive apk
application/x-x509-ca-cert crt pem
image/png png
image/jpeg jpg jpeg
image/gif gif
image/webp webp
image/avif avif
image/svg+xml svg
image/x-icon ico
image/bmp bmp
image/tiff tif tiff
image/jxl jxl
audio/mpeg mp3
audio/mp4 m4a
audio/ogg oga ogg opus
audio/flac flac
audio/wav wav
audio/aac aac
audio/midi mid midi
video/mp4 mp4 m4v
video/webm webm
video/ogg ogv
video/quicktime mov
video/x-matroska mkv
font/woff woff
font/woff2 woff2
font/ttf ttf
font/otf otf
"""
UNKNOWN: Final = "application/octet-stream"
# What is text in spite of its name is UTF-8 too.
_TEXTUAL: Final = ("json", "xml", "javascript")


def _table() -> dict[str, str]:
    table: dict[str, str] = {}
    for line in _TYPES.split("\n"):
        kind, *extensions = line.split() or [""]
        if kind.startswith("text/") or kind.endswith(_TEXTUAL):
            kind += "; charset=utf-8"
        table |= dict.fromkeys(extensions, kind)
    return table


_BY_EXTENSION: Final = _table()


def content_type(path: str) -> str:
    """By the last extension: `"/a/b.HTML"` → `"text/html; charset=utf-8"`."""
    name = path.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    return _BY_EXTENSION.get(extension.lower(), UNKNOWN) if dot and stem else UNKNOWN
