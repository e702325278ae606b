"""fildes.toml: what is taken, what is refused, and whether the refusal points at the right line."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fildes import manifest
from fildes.manifest import ManifestError, infer, places, read, words

GOOD = b"""\
name = "guestbook"
runtime = "asgi"                 # a comment
entry = "guestbook:app"
hosts = ["guestbook.localhost",
         "Example.ORG/guests/"]

[env]
TITLE = "Guests"

[grants.clock]
[grants.db]
kind = "connect"
to = "ledger"
[grants.out]
kind = "connect"
to = "DB.example.org:5432"
[grants]
key = { kind = "secret", secret = "stripe" }

[limits]
memory = "64MiB"
cpu = 0.5
tasks = 16
concurrency = 8

[offers]
to = ["shop", "anna/till"]
"""

BASE = b'name = "a"\nruntime = "asgi"\nentry = "m:app"\nhosts = ["a.localhost"]\n'


def refused(text: str | bytes) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read(text if isinstance(text, bytes) else text.encode())
    return str(caught.value).splitlines()


def test_a_whole_manifest() -> None:
    got = read(GOOD)
    assert got.name == "guestbook"
    assert got.hosts == ["guestbook.localhost", "example.org/guests"]
    assert got.env == {"TITLE": "Guests"}
    grants = {g.name: g for g in got.grants}
    assert grants["clock"].kind == "clock"
    assert (grants["db"].kind, grants["db"].to) == ("connect", "ledger")
    assert grants["out"].to == "db.example.org:5432"
    assert grants["key"].options == {"secret": "stripe"}
    assert got.limits == manifest.Limits(memory=64 << 20, cpu=0.5, tasks=16, concurrency=8)
    assert got.offers == ["shop", "anna/till"]
    assert got.lines["hosts.1"] == 5
    assert got.lines["grants.db.to"] == 13
    assert got.lines["grants.key.secret"] == 18
    assert got.lines["offers.to.1"] == 27


def test_it_survives_the_wire() -> None:
    got = read(GOOD)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(got), type=manifest.Manifest) == got


def test_limits_have_defaults() -> None:
    assert read(BASE).limits == manifest.Limits(memory=256 << 20, cpu=1.0, tasks=32, concurrency=64)


def test_all_problems_are_told_at_once_in_order() -> None:
    lines = refused(
        'name = "A b"\nruntime = "asgy"\nentry = "main.py"\nhsts = ["x"]\n[limits]\nmemory = "64"\ncpu = "1"\n'
    )
    assert [line.split(":")[1] for line in lines] == ["1", "2", "4", "6", "7"]


@pytest.mark.parametrize(
    ("text", "line", "says", "hint"),
    [
        ('nme = "x"', 5, 'unknown key "nme"', 'did you mean "name"?'),
        ("memory = 3", 5, 'unknown key "memory"', "it belongs under [limits]"),
        ("[limits]\ncup = 1", 6, 'unknown key "cup"', 'did you mean "cpu"?'),
        ("[limits]\nruntime = 1", 6, "unknown key", "it belongs at the top"),
        ('[limits]\nmemory = "64mb"', 6, 'unit "mb"', 'did you mean "64MB"?'),
        ('[limits]\nmemory = "1 G"', 6, 'unit "G"', 'did you mean "1GiB"?'),
        ("[limits]\nmemory = 64", 6, "at least 8 MiB", 'did you mean "64MiB"?'),
        ("[limits]\nmemory = true", 6, "expected a size", ""),
        ("[limits]\nmemory = -1", 6, "at least 8 MiB", ""),
        ("[limits]\ncpu = 0", 6, "expected cores", "0.5 is half"),
        ("[limits]\ncpu = nan", 6, "expected cores", ""),
        ("[limits]\ncpu = true", 6, "expected a number, got the truth value", ""),
        ("[limits]\ntasks = 0", 6, "expected a number from 1", ""),
        ("[limits]\ntasks = 1.5", 6, "expected a whole number, got the number 1.5", ""),
        ('[limits]\ntasks = "5"', 6, "expected a whole number", "write 5 without the quotes"),
        ("[env]\nPORT = 80", 6, "expected a string", 'write "80"'),
        ('[env]\n"A B" = ""', 6, "cannot be a variable's name", ""),
        ('[env]\nLD_PRELOAD = ""', 6, "not a program's to set", ""),
        ('[env]\nX = "\\u0000"', 6, "zero byte", ""),
        ("[grants.clok]", 5, 'unknown kind "clok"', 'did you mean "clock"?'),
        ('[grants.db]\nkind = "conect"\nto = "x"', 6, 'unknown kind "conect"', 'did you mean "connect"?'),
        ("[grants.db]\nkind = 5", 6, "expected a string", ""),
        ("[grants.connect]", 5, "needs to", ""),
        ('[grants.connect]\nto = "no:port"', 6, "expected a service", ""),
        ('[grants.connect]\nto = "[zz]:80"', 6, "zz", ""),
        ('[grants.connect]\nto = "*.x:80"', 6, "wildcards", ""),
        ("[grants.clock]\nspeed = 1", 6, 'unknown key "speed"; known here are kind', ""),
        ('[grants."Cl ock"]\nkind = "clock"', 5, "not a grant's name", ""),
        ("[grants]\nclock = 3", 6, "expected a table, got the number 3", ""),
        ('[offers]\nto = "shop"', 6, "expected a list", 'write ["shop"]'),
        ('[offers]\nto = ["a", "a"]', 6, "listed twice", ""),
        ('[offers]\nto = ["/a"]', 6, "owner/service", ""),
        ("offers = 1", 5, "expected a table", ""),
    ],
)
def test_each_mistake_has_its_line_and_a_way_out(text: str, line: int, says: str, hint: str) -> None:
    got = refused(BASE + text.encode())
    assert len(got) == 1, got
    assert got[0].startswith(f"fildes.toml:{line}: "), got
    assert says in got[0]
    assert hint in got[0]


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("*.localhost", "wildcards"),
        ("http://a.localhost/", 'write "a.localhost"'),
        ("a.localhost:8080", 'write "a.localhost"'),
        ("", "not a host name"),
        ("a..b", "not a host name"),
        ("-a.b", "not a host name"),
        ("a_b.c", "not a host name"),
        ("a b", "not a host name"),
        ("x" * 64, "not a host name"),
        ("a." * 130 + "b", "not a host name"),
        ("a/../b", "plain segments"),
        ("a//b", "plain segments"),
        ("a/%41", "plain segments"),
        ("a/b?c", "plain segments"),
        ("a/" + "b" * 300, "longer than"),
    ],
)
def test_hosts_that_are_refused(host: str, says: str) -> None:
    with pytest.raises(words.Wrong) as caught:
        words.route(host)
    assert says in f"{caught.value.text}; {caught.value.hint}"


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        ("A.LocalHost", "a.localhost"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("a.b/", "a.b"),
        ("a.b/C/d/", "a.b/C/d"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_hosts_are_brought_to_one_form(host: str, taken: str) -> None:
    assert words.route(host) == taken


def test_the_same_host_twice() -> None:
    got = refused('name = "a"\nruntime = "static"\nhosts = [\n"a.localhost",\n"A.localhost/"]')
    assert got == ['fildes.toml:5: hosts[1]: "a.localhost" is listed twice; leave one out']


def test_a_runtime_that_is_none() -> None:
    got = refused('name = "a"\nruntime = "wsgy"\nhosts = ["a.localhost"]')
    assert got[0].startswith('fildes.toml:2: runtime: unknown runtime "wsgy"')


def test_a_service_that_says_no_host_has_its_name_below_localhost() -> None:
    assert read(b'name = "a"\nruntime = "asgi"\nentry = "m:app"').hosts == ["a.localhost"]
    assert read(b'name = "a"\nruntime = "static"').hosts == ["a.localhost"]
    assert read(b'name = "a"\nruntime = "asgi"\nentry = "m:app"\n[offers]\nto = ["b"]').hosts == []


def test_what_nobody_could_reach() -> None:
    assert "nobody could reach" in refused('name = "a"\nruntime = "asgi"\nentry = "m:app"\nhosts = []')[0]
    assert 'hosts = ["a.localhost"]' in refused('name = "a"\nruntime = "static"\nhosts = []')[0]


def test_entry() -> None:
    head = 'name = "a"\nhosts = ["a.localhost"]\n'
    assert 'did you mean "src.main:app"?' in refused(head + 'runtime = "asgi"\nentry = "src/main.py"')[0]
    assert read(f'{head}runtime = "wsgi"\nentry = "shop.web:create_app()"'.encode()).entry == "shop.web:create_app()"
    assert 'expected "module:object"' in refused(head + 'runtime = "wsgi"\nentry = "shop:create_app(1)"')[0]
    assert "entry is missing" in refused(head + 'runtime = "asgi"')[0]
    assert "is empty" in refused(head + 'runtime = "asgi"\nentry = ""')[0]
    assert "leave it out" in refused(head + 'runtime = "static"\nentry = "x"')[0]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (b'name = "a"\nruntime = \n', "fildes.toml:2: is not TOML: "),
        (b"a = 1\na = 2", "fildes.toml:2: is not TOML: "),
        (b'name = """', "fildes.toml:1: is not TOML: "),
        (b"# fine\n\n# \xff", "fildes.toml:3: byte 0xff is not UTF-8"),
        (b"a = " + b"[" * 5000, "fildes.toml"),
        (b"a = " + b"9" * 5000, "fildes.toml: is not TOML that can be read"),
        (b"#" * 70_000, "fildes.toml: is 70000 bytes long"),
    ],
)
def test_what_is_not_toml(text: bytes, start: str) -> None:
    got = refused(text)
    assert len(got) == 1
    assert got[0].startswith(start), got


def test_a_manifest_too_large_for_a_message() -> None:
    env = "".join(f'V{n} = "{"x" * 100}"\n' for n in range(400))
    assert "says too much" in refused(BASE + b"[env]\n" + env.encode())[0]


def test_many_problems_are_cut() -> None:
    got = refused(BASE + b"".join(b"k%d = 1\n" % n for n in range(90)))
    assert len(got) == 51
    assert got[-1] == "fildes.toml: and 40 more"


def test_the_filename_is_the_callers() -> None:
    with pytest.raises(ManifestError, match=r"^shop/fildes\.toml:1: "):
        read(b"=", "shop/fildes.toml")


# — without a manifest —


def test_a_plain_site_needs_none() -> None:
    got = infer(["./index.html", "css/a.css", "tools/build.py"], "docs")
    assert (got.name, got.runtime, got.hosts, got.entry) == ("docs", "static", ["docs.localhost"], "")


@pytest.mark.parametrize(
    ("names", "name", "says"),
    [
        (["index.html", "app.py"], "x", 'entry = "app:app"'),
        (["index.html", "requirements.txt"], "x", 'entry = "main:app"'),
        (["a.txt", "sub/index.html"], "x", "index.html"),
        ([], "x", "index.html"),
        (["index.html"], "My Site", 'did you mean "my-site"?'),
    ],
)
def test_what_is_not_plainly_a_site(names: list[str], name: str, says: str) -> None:
    with pytest.raises(ManifestError) as caught:
        infer(names, name)
    assert says in str(caught.value)


# — whatever comes —

_scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)
_names = st.one_of(
    st.sampled_from(
        [
            "name",
            "runtime",
            "entry",
            "hosts",
            "env",
            "grants",
            "limits",
            "offers",
            "to",
            "kind",
            "memory",
            "cpu",
            "clock",
        ]
    ),
    st.text(max_size=6),
)
_trees = st.dictionaries(_names, st.one_of(_values, st.dictionaries(_names, _values, max_size=4)), max_size=8)


def _string(text: str) -> str:
    return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in text) + '"'


def _inline(value: Any, newline: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return "[" + newline + f",{newline}".join(_inline(v, newline) for v in value) + newline + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_string(k)} = {_inline(v, '')}" for k, v in value.items()) + "}"
    return repr(value)


def _document(tree: dict[str, Any], newline: str) -> str:
    plain = {k: v for k, v in tree.items() if not isinstance(v, dict)}
    tables = {k: v for k, v in tree.items() if isinstance(v, dict)}
    lines = [f"{_string(k)} = {_inline(v, newline)} # {k!a}" for k, v in plain.items()]
    for key, table in tables.items():
        lines += ["", f"[{_string(key)}]"]
        lines += [f"{_string(k)} = {_inline(v, newline)}" for k, v in table.items()]
    return "\n".join(lines) + "\n"


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return ({path} if path else set()).union(*(_paths(v, (*path, k)) for k, v in inner))


@given(_trees, st.sampled_from(["", "\n", "\n# x ]\n"]))
@settings(max_examples=300, deadline=None)
def test_any_tree_is_taken_or_refused_and_every_key_has_its_line(tree: dict[str, Any], newline: str) -> None:
    text = _document(tree, newline)
    try:
        parsed = tomllib.loads(text)
    except ValueError:  # a surrogate cannot be written in TOML
        parsed = None
    if parsed is not None:
        lines = places.find(text)
        assert set(lines) == _paths(parsed)
        for path in lines:
            if len(path) == 1 and not isinstance(parsed[path[0]], dict):
                assert text.splitlines()[lines[path] - 1].startswith(_string(str(path[0])) + " = ")
    try:
        read(text.encode())
    except ManifestError as error:
        assert error.problems
        assert all(problem.text for problem in error.problems)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_by_a_manifest_error(data: bytes) -> None:
    with pytest.raises(ManifestError):
        read(data)


@given(st.integers(0, len(GOOD)), st.binary(max_size=8), st.integers(0, 20))
@settings(max_examples=500, deadline=None)
def test_a_damaged_manifest(at: int, put: bytes, cut: int) -> None:
    try:
        read(GOOD[:at] + put + GOOD[at + cut :])
    except ManifestError as error:
        assert error.problems


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_a_host_is_a_fixed_point(text: str) -> None:
    try:
        taken = words.route(text)
    except words.Wrong:
        return
    assert words.route(taken) == taken
    assert taken.isascii()
    assert taken.partition("/")[0] == taken.partition("/")[0].lower()


@pytest.mark.parametrize(
    "text",
    [
        "a = '''\n[x]\nb=1'''\nc = 2",
        'a = """x\\"""" \nc = 2',
        'a = """\n"""""\nc = 2',
        "[[a]]\nx = 1\n[[a]]\nx = 2\n[a.b]\ny = 3",
        "a.b.'c d' = 1\n[e . \"f\\u0041\"]\ng = 1979-05-27 07:32:00 # t",
        "a = [ [1,2], # x\n [3], { b = 1, c.d = [] } , ]\r\nb = ''",
        'a = [ "]", "#", \'}\' ]',
    ],
)
def test_lines_of_odd_but_valid_toml(text: str) -> None:
    assert set(places.find(text)) == _paths(tomllib.loads(text))
