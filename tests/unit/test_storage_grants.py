"""What a manifest may say about databases and trees, and what the driver does with names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fildes.capabilities import places, sizes
from fildes.capabilities.files import grant as files
from fildes.capabilities.files.driver import open_tree
from fildes.capabilities.kinds import together
from fildes.capabilities.sqlite import grant as sqlite
from fildes.catalogue import policy
from fildes.debug.explain import reasons
from fildes.drivers.storage import shelves
from fildes.drivers.storage.shelves import BadName, Full, Shelf, Shelves
from fildes.kernel.fds import Fd, close_all
from fildes.manifest import ManifestError, read
from fildes.wire.catalogue import Policy
from fildes.wire.drivers import FdEntry

HEAD = b'name = "shop"\nruntime = "asgi"\nentry = "main:app"\n'


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('quota = "many"', "must be a size from 1MiB to 16TiB"),
        ('quota = "1KiB"', "must be a size from 1MiB to 16TiB"),
        ("quota = 5", "quota"),
        ('path = "data/x"', "must be an absolute path"),
        ('path = "/data/../etc/x"', "must be written without '//', '.', '..'"),
        ('path = "/data/x/"', "must be written without"),
        ('path = "/tmp/x"', "those places are the system's"),
        ('path = "/app"', "those places are the system's"),
        (f'path = "/data/{"x" * 201}"', "has a part of more than 200 bytes"),
        (f'path = "{"/data" * 100}"', "must be an absolute path of at most"),
        ('mode = "w"', 'must be "rw" or "ro"'),
        ('of = "a/b/c"', "must be a service, or SERVICE/GRANT"),
        ('of = "../x"', "must be a service, or SERVICE/GRANT"),
        ('of = "ledger"\nmode = "rw"', "the service itself writes its database"),
        ('of = "ledger"\nquota = "2MiB"', "say it where the database is written"),
        ("[grants.files]", "can't stand beside a grant of kind files"),
        ('[grants.other]\nkind = "sqlite"\npath = "/data/db.sqlite3"', "lie in each other"),
        ('[grants.other]\nkind = "sqlite"\npath = "/data"', "lie in each other"),
        ('size = "2MiB"', "size"),
    ],
)
def test_what_can_not_be_is_said_with_its_line(lines: str, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(HEAD + f'[grants.db]\nkind = "sqlite"\n{lines}\n'.encode())
    assert said in str(caught.value)
    assert any(f":{line}:" in str(caught.value) for line in range(4, 9)), str(caught.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('quota = "64MiB"', "goes with 'path'"),
        ('path = "/data/x"\nquota = "1MiB"', "must be a size from 16MiB"),
        ('path = "/app/uploads"', "may not lie in /app"),
        ('path = "/etc"', "those places are the system's"),
    ],
)
def test_a_tree_that_can_not_be_is_said(lines: str, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(HEAD + f'[grants.uploads]\nkind = "files"\n{lines}\n'.encode())
    assert said in str(caught.value)


def test_what_is_left_out_has_a_meaning() -> None:
    [db] = read(HEAD + b'[grants.db]\nkind = "sqlite"\n').grants
    assert sqlite.path_of(db.name, db.options) == "/data/db.sqlite3"
    assert sqlite.quota_of(db.options) == 1 << 30
    assert sqlite.writable(db.options)
    assert not sqlite.writable({"of": "ledger"}) and not sqlite.writable({"mode": "ro"})
    assert sqlite.source_of("db", "shop", {}) == ("shop", "db")
    assert sqlite.source_of("db", "shop", {"of": "ledger"}) == ("ledger", "db")
    assert sqlite.source_of("db", "shop", {"of": "ledger/books"}) == ("ledger", "books")
    [tree] = read(HEAD + b'[grants.up]\nkind = "files"\npath = "/data/up"\n').grants
    assert (files.path_of(tree.options), files.quota_of(tree.options)) == ("/data/up", 100 << 20)
    assert files.path_of({}) is None


def test_sizes_and_places() -> None:
    assert (sizes.parse("64MiB"), sizes.parse("5"), sizes.parse("1 GB"), sizes.parse("-1")) == (
        64 << 20,
        5,
        10**9,
        None,
    )
    assert places.problem("/srv/data/a.db") == ""
    assert together([("a", "clock", {}), ("b", "files", {})]) == []


def test_an_owner_may_not_promise_more_than_the_policy() -> None:
    manifest = read(HEAD + b'[grants.db]\nkind = "sqlite"\nquota = "10MiB"\n')
    assert policy.data_of(manifest) == 10 << 20
    assert not policy.check(manifest, "local", Policy(), policy.Facts())
    [problem] = policy.check(manifest, "local", Policy(data=20 << 20), policy.Facts(data=11 << 20))
    assert "could take 22,020,096 bytes; the policy allows 20,971,520" in problem.text
    assert policy.data_of(read(HEAD + b'[grants.db]\nkind = "sqlite"\nof = "ledger"\n[grants.clock]\n')) == 0


# — the driver's directory —


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Shelves]:
    with Fd.open(str(tmp_path), os.O_RDONLY | os.O_DIRECTORY) as directory:
        yield Shelves(directory)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\0", "-a", "x" * 65, "a b"])
def test_a_name_is_never_a_path(kept: Shelves, name: str) -> None:
    for names in ((name, "a", "b"), ("a", name, "b"), ("a", "b", name)):
        with pytest.raises(BadName):
            kept.make(*names)
        with pytest.raises(BadName):
            kept.open(*names)
    for names in ((name, "a"), ("a", name)):
        with pytest.raises(BadName):
            kept.remove(*names)


def test_what_is_made_is_found_listed_and_removed(kept: Shelves, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        kept.open("anna", "shop", "db")
    with kept.make("anna", "shop", "db") as directory:
        os.close(os.open("db", os.O_CREAT | os.O_WRONLY, dir_fd=directory.fileno()))
    kept.make("anna", "shop", "tree").close()
    kept.make("anna", "other", "db").close()
    assert kept.look("anna", "shop") == [Shelf("db", "sqlite", 0), Shelf("tree", "files", 0)]
    assert kept.look("anna", "nobody") == kept.look("bob", "shop") == []
    assert kept.remove("bob", "shop") == 0
    assert kept.remove("anna", "shop") == 2
    assert kept.remove("anna", "shop") == 0
    assert os.listdir(tmp_path / "anna") == ["other"]


def test_a_link_leads_nowhere(kept: Shelves, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "shop").symlink_to(outside)
    with pytest.raises(OSError):
        kept.make("anna", "shop", "db")


def test_an_owner_has_room_for_so_many(kept: Shelves, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "MOST", 2)
    kept.make("anna", "a", "x").close()
    kept.make("anna", "b", "x").close()
    with pytest.raises(Full, match="fildes rm NAME --data"):
        kept.make("anna", "c", "x")
    kept.make("anna", "b", "x").close()
    kept.make("bob", "c", "x").close()


def test_a_tree_stays_what_it_was_made_as(tmp_path: Path) -> None:
    for name, image in (("one", True), ("two", False)):
        (tmp_path / name).mkdir()
        with Fd.open(str(tmp_path / name), os.O_RDONLY) as directory:
            for wanted in (image, True):
                fd, size = open_tree(directory.fileno(), 64 << 20, image=wanted)
                close_all([fd])
                assert size == (64 << 20 if image else 0)
    with Fd.open(str(tmp_path / "one"), os.O_RDONLY) as directory, pytest.raises(OSError, match="as root, as before"):
        open_tree(directory.fileno(), 64 << 20, image=False)


def test_what_lies_below_a_directory_that_was_given_is_explained() -> None:
    entries = [
        FdEntry(3, "/data/up/a/b", "file", os.O_RDWR, 0),
        FdEntry(4, "/data/up", "directory", os.O_RDONLY, 0),
        FdEntry(5, "/data/upper", "file", os.O_RDWR, 0),
        FdEntry(6, "/data/up/sock", "socket", os.O_RDWR, 0),
    ]
    assert reasons(entries, {"/data/up/": "grant up"}) == ["grant up", "grant up", "", ""]
