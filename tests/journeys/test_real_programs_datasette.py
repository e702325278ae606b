"""Datasette on a database of twelve thousand rows, which Python itself knows, and on one that is kept: as uvicorn
serves it, unconfined.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from fildes.testing import Node

from .conftest import install
from .programs import Ask, Twins, ask, taken, unconfined

HOST = "signs.localhost"
ROWS = 12_000
# How long a query took, and what depends on how two of them race.
VARYING = [
    r'"query_ms": [\d.e-]+',
    r">Datasette</a>\s*(&middot; Queries took [\d.]+ms)?\s*",
    r'"(duration_ms|start|end|sum_trace_duration_ms|request_duration_ms)": [\d.e-]+',
    r'"path": "/[^"]+/(?=notes)',  # where it is kept
    r'name="csrftoken" value="[^"]+"',
    r"ds_csrftoken=[^;]+",
]
SQL = "/unicode?sql=select+category%2C+count(*)+as+n%2C+sum(code)+from+sign+group+by+category+order+by+n+desc"
ASKS = [
    *(Ask("GET", path) for path in ("/", "/unicode", "/unicode/sign", "/unicode/category", "/-/versions.json")),
    *(Ask("GET", f"/-/{page}.json") for page in ("databases", "settings", "plugins", "metadata", "actor")),
    *(Ask("GET", f"/-/static/{name}") for name in ("app.css", "table.js", "cm-editor-6.0.1.bundle.js", "nothing.js")),
    Ask("HEAD", "/-/static/app.css"),
    Ask("GET", "/unicode/sign/955"),
    Ask("GET", "/unicode/sign/955.json?_shape=array"),
    Ask("GET", "/unicode/sign/99999999"),
    Ask("GET", "/unicode/nothing"),
    Ask("GET", "/unicode/sign.json?_size=1000&_shape=objects"),
    Ask("GET", "/unicode/sign.json?_next=500&_size=20&_sort_desc=code"),
    Ask("GET", "/unicode/sign.json?_facet=bidirectional&_facet=category&_size=0"),
    Ask("GET", "/unicode/sign?_facet=bidirectional&category=Lu&name__contains=GREEK&_sort=name"),
    Ask("GET", "/unicode/sign.json?_search=omega+small&_shape=arrayfirst&_col=name"),
    Ask("GET", "/unicode/sign.json?code__gt=900&code__lt=1000&_labels=on&_shape=array&_nl=on"),
    Ask("GET", "/unicode/sign.csv?category=Lu&_size=max"),
    Ask("GET", "/unicode/sign.csv?_stream=on&_labels=on"),
    Ask("GET", SQL),
    Ask("GET", SQL.replace("?", ".json?", 1) + "&_shape=array"),
    Ask("GET", SQL.replace("?", ".csv?", 1)),
    Ask("GET", "/unicode.json?sql=select+:a+%7C%7C+'%C3%BC'+as+x&a=1%3B2"),
    Ask("GET", "/unicode.json?sql=delete+from+sign"),
    Ask("GET", "/unicode.json?sql=select+nothing+from"),
    Ask(
        "GET", "/unicode.json?sql=with+recursive+c(x)+as+(select+1+union+all+select+x%2B1+from+c)+select+max(x)+from+c"
    ),
    Ask("GET", "/unicode/longest.json?most=5"),
    Ask("GET", "/unicode/longest?most=3"),
    Ask("GET", "/unicode.db", headers={"Range": "bytes=0-99"}),
    Ask("GET", "/-/logout"),
    Ask("POST", "/-/logout", b"x=1", {"Content-Type": "application/x-www-form-urlencoded"}),
    Ask("OPTIONS", "/unicode.json"),
    Ask("GET", "/notes.json?sql=select+count(*)+from+note&_shape=arrayfirst"),
    Ask("GET", "/notes/note"),
    Ask("GET", "/nowhere?" + "x" * 500),
]


def build(path: Path) -> None:
    """What Python knows of the first characters, with a full-text index, as `sqlite-utils` makes them."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("create table category (id text primary key, kind text)")
        db.execute(
            "create table sign (code integer primary key, sign text, name text, bidirectional text, width text,"
            " category text references category(id))"
        )
        signs = (chr(code) for code in range(32, sys.maxunicode) if not 0xD800 <= code < 0xE000)
        known = ((sign, unicodedata.name(sign)) for sign in signs if unicodedata.name(sign, ""))
        for _, (sign, name) in zip(range(ROWS), known, strict=False):
            width, category = unicodedata.east_asian_width(sign), unicodedata.category(sign)
            row = (ord(sign), sign, name, unicodedata.bidirectional(sign), width, category)
            db.execute("insert into sign values (?, ?, ?, ?, ?, ?)", row)
        db.execute("insert into category select distinct category, substr(category, 1, 1) from sign")
        db.execute("create virtual table sign_fts using fts5(name, content='sign', content_rowid='code')")
        db.execute("insert into sign_fts (rowid, name) select code, name from sign")
        db.commit()


def keep(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("create table note (id integer primary key, text text)")
        db.executemany("insert into note (text) values (?)", [(f"note {number}",) for number in range(250)])
        db.commit()


@pytest.fixture(scope="module")
def signs(town: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    folder = tmp_path_factory.mktemp("signs")
    app = taken("signs", folder)
    build(app / "unicode.db")
    keep(folder / "notes.db")
    town.fildes("publish", str(app), timeout=180)
    town.fildes("db", "restore", "signs", "db", str(folder / "notes.db"))
    packages = install(folder / "packages", "-r", str(app / "requirements.txt"))
    command = ["-m", "uvicorn", "--fd", "FD", "main:app"]
    with unconfined(app, packages, *command, environment={"KEPT": str(folder / "notes.db")}) as address:
        yield Twins(town, HOST, address)
    town.fildes("rm", "signs", "--data", check=False)


def test_every_answer_is_what_uvicorn_gives(signs: Twins) -> None:
    heard = signs.agree(ASKS, varying=VARYING)
    assert {200, 302, 400, 404} <= {answer.status for answer in heard}
    assert not any(answer.status == 500 for answer in heard)


def test_all_of_it_as_a_stream(signs: Twins) -> None:
    lines = ask(signs.confined, HOST, Ask("GET", "/unicode/sign.csv?_stream=on")).body.decode().split("\r\n")
    assert len(lines) == ROWS + 2 and lines[0] == "code,sign,name,bidirectional,width,category"
    assert "955,λ,GREEK SMALL LETTER LAMDA,L,A,Ll" in lines


def test_what_is_kept_changes_and_is_seen(signs: Twins, tmp_path: Path) -> None:
    """By `fildes db restore`: the running program sees the new rows."""
    count = Ask("GET", "/notes.json?sql=select+count(*)+from+note&_shape=arrayfirst")
    assert json.loads(ask(signs.confined, HOST, count).body) == [250]
    copy = tmp_path / "notes.db"
    signs.node.fildes("db", "backup", "signs", "db", str(copy))
    with contextlib.closing(sqlite3.connect(copy)) as db:
        db.execute("insert into note (text) values ('one more')")
        db.commit()
    signs.node.fildes("db", "restore", "signs", "db", str(copy))
    assert json.loads(ask(signs.confined, HOST, count).body) == [251]
    assert os.path.getsize(copy) > 0
