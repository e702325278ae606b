"""A Django project with its admin, translations, static files and SQLite: as gunicorn serves it, unconfined; and what
one does with it over its life: migrations, createsuperuser, releases, and the death of what runs.
"""

from __future__ import annotations

import contextlib
import http.client
import http.cookies
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fildes.testing import Node, eventually

from .conftest import install, told
from .programs import FORM, Ask, Heard, Twins, ask, blurred, difference, multipart, taken, unconfined
from .terminal import Terminal

HOST = "library.localhost"
GERMAN = {"Accept-Language": "de"}
# What is drawn anew for each form, and the moment of an entry.
VARYING = [
    r'name="csrfmiddlewaretoken" value="\w+"',
    r"(csrftoken|sessionid)=\w+; expires=[^;]+",
    r"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$",  # Expires: now
    r"[A-Z][a-z]+\.? \d+, \d{4}, [\d:]+ ([ap]\.m\.|noon|midnight)",
]


class Browser:
    """One person at one of the two: keeps cookies, and fills the token of the last form into the next."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.cookies: dict[str, str] = {}
        self.token = ""

    def get(self, path: str) -> Heard:
        return self._ask(Ask("GET", path))

    def post(self, path: str, **fields: str) -> Heard:
        form = urllib.parse.urlencode({"csrfmiddlewaretoken": self.token, **fields})
        return self._ask(Ask("POST", path, form.encode(), FORM))

    def _ask(self, one: Ask) -> Heard:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        heard = ask(
            self.address, HOST, one._replace(headers={**one.headers, **({"Cookie": cookies} if cookies else {})})
        )
        for line in (value for name, value in heard.headers if name == "set-cookie"):
            self.cookies |= {name: morsel.value for name, morsel in http.cookies.SimpleCookie(line).items()}
        if found := re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', heard.body):
            self.token = found[1].decode()
        return blurred(heard, VARYING)


class Library(NamedTuple):
    twins: Twins
    app: Path
    packages: Path

    @property
    def node(self) -> Node:
        return self.twins.node

    def manage(self, *words: str, folder: Path | None = None) -> None:
        """`python manage.py WORDS…`, unconfined."""
        manage(folder or self.app.parent / "plain", self.packages, *words)


def manage(folder: Path, packages: Path, *words: str) -> None:
    where = {"PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1", "SECRET_KEY_FILE": str(folder.parent / "key")}
    command = [sys.executable, "manage.py", *words]
    environment = os.environ | where | {"DJANGO_SUPERUSER_PASSWORD": "open sesame"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def library(town: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    folder = tmp_path_factory.mktemp("library")
    app = taken("library", folder)
    packages = install(folder / "packages", "-r", str(app / "requirements.txt"), "gunicorn", "babel")
    compiling = [sys.executable, "-m", "babel.messages.frontend", "compile", "-D", "django", "-d", str(app / "locale")]
    subprocess.run(compiling, env=os.environ | {"PYTHONPATH": str(packages)}, check=True, capture_output=True)
    (folder / "key").write_text("a key for signing")
    manage(app, packages, "collectstatic", "--noinput")
    for path in app.rglob("*"):  # a release keeps whole seconds
        os.utime(path, (1_700_000_000, 1_700_000_000))
    shutil.copytree(app, folder / "plain")
    manage(folder / "plain", packages, "migrate")
    secret = [sys.executable, "-m", "fildes.cli", "secret", "set", "library", "django-key"]
    environment = os.environ | {"FILDES_STATE": str(town.state)}
    subprocess.run(secret, env=environment, input=b"a key for signing", check=True, timeout=20)
    town.fildes("publish", str(app), timeout=180)
    command = [
        "-m",
        "gunicorn",
        "--threads",
        "4",
        "--no-control-socket",
        "--bind",
        "fd://FD",
        "library.wsgi:application",
    ]
    with unconfined(
        folder / "plain", packages, *command, environment={"SECRET_KEY_FILE": str(folder / "key")}
    ) as address:
        yield Library(Twins(town, HOST, address), app, packages)
    town.fildes("rm", "library", "--data", check=False)


def test_its_pages_and_files(library: Library) -> None:
    twins = library.twins
    styles = [str(path.relative_to(library.app)) for path in (library.app / "static").rglob("*") if path.suffix]
    chosen = sorted(path for path in styles if re.search(r"(base|books|jquery|icon-yes|forms)\.[0-9a-f]{12}\.", path))
    assert len(chosen) > 4
    body, kind = multipart(
        ("file", "notes.txt", "text/plain", b"x" * 100), mail="a@b.example", text="ten letters, or more"
    )
    asks = [
        *(
            Ask("GET", path)
            for path in ("/books/", "/books/?page=2", "/books/7/", "/about/", "/de/about/", "/en-us/about/")
        ),
        *(Ask("GET", path, headers=GERMAN) for path in ("/books/", "/about/", "/nowhere", "/admin/", "/admin/login/")),
        *(Ask("GET", f"/{path}") for path in chosen),
        *(Ask("GET", f"/{path}", headers={"Range": "bytes=5-50"}) for path in chosen[:2]),
        Ask("HEAD", f"/{chosen[0]}"),
        Ask("GET", f"/{chosen[0]}", headers={"If-Modified-Since": "Tue, 14 Nov 2023 22:13:20 GMT"}),
        Ask("GET", "/static/../library/settings.py"),
        Ask("GET", "/titles.txt"),
        Ask("GET", "/titles.json"),
        Ask("GET", "/titles.json", headers={"If-None-Match": '"0"'}),
        Ask("GET", "/ask/"),
        Ask("POST", "/ask/", body, kind),  # no token
        Ask("GET", "/add"),
        Ask("POST", "/add", b"author=Ada&title=Notes", FORM),
        Ask("POST", "/add", "author=Čapek&title=R.U.R.".encode(), FORM),
        Ask("GET", "/books/", headers=GERMAN),
        Ask("GET", "/books/2/", headers=GERMAN),
        Ask("GET", "/titles.txt"),
        Ask("GET", "/titles.json", headers={"If-None-Match": '"0"'}),
        Ask("GET", "/admin/books/book/"),
    ]
    heard = twins.agree(asks, varying=VARYING)
    assert {answer.status for answer in heard} == {200, 201, 206, 302, 304, 403, 404, 405}
    assert "Bücher" in heard[6].body.decode() and "keine" in heard[6].body.decode()


def test_superusers_and_what_they_do_in_the_admin(library: Library) -> None:
    """One is made at a terminal, one without; then the same things are done on both, page by page."""
    with Terminal(library.node, "run", "library", "--", "python", "manage.py", "createsuperuser") as terminal:
        terminal.sees("Username")
        terminal.types("ada\n")
        terminal.sees("Email address:")
        terminal.types("ada@example.org\n")
        terminal.sees("Password:")
        terminal.types("open sesame\n")
        shown = terminal.sees("Password (again):")
        terminal.types("open sesame\n")
        shown += terminal.sees("Superuser created successfully.")
        assert terminal.ends() == 0 and "sesame" not in shown
    words = ("createsuperuser", "--noinput", "--username", "bob", "--email", "bob@example.org")
    code = "import os, runpy, sys; os.environ['DJANGO_SUPERUSER_PASSWORD'] = 'open sesame'"
    code += f"; sys.argv = ['manage.py', *{words!r}]; runpy.run_path('manage.py', run_name='__main__')"
    library.node.fildes("run", "library", "--", "python", "-c", code)
    library.manage("createsuperuser", "--noinput", "--username", "ada", "--email", "ada@example.org")
    library.manage(*words)

    browsers = [Browser(library.twins.confined), Browser(library.twins.unconfined)]

    def both(method: str, path: str, **fields: str) -> Heard:
        confined, unconfined = (
            browser.get(path) if method == "GET" else browser.post(path, **fields) for browser in browsers
        )
        assert confined == unconfined, f"{method} {path}: {difference(confined, unconfined)}"
        return confined

    both("GET", "/admin/login/?next=/admin/")
    assert both("POST", "/admin/login/?next=/admin/", username="ada", password="wrong").status == 200
    assert both("POST", "/admin/login/?next=/admin/", username="ada", password="open sesame").status == 302
    assert b"Site administration" in both("GET", "/admin/").body
    both("GET", "/admin/books/author/add/")
    books = {
        "books-TOTAL_FORMS": "1",
        "books-INITIAL_FORMS": "0",
        "books-0-title": "Faust <b>",
        "books-0-price": "12.5",
    }
    books |= {"books-MIN_NUM_FORMS": "0", "books-MAX_NUM_FORMS": "1000"}
    added = both("POST", "/admin/books/author/add/", name="Göthe", born="1749-08-28", **books)
    assert added.status == 302
    assert b"was added successfully" in both("GET", "/admin/books/author/").body
    refused = both("POST", "/admin/books/author/add/", name="Göthe", born="soon", **books | {"books-0-price": "x"})
    assert refused.body.count(b"errorlist") >= 3
    page = both("GET", "/admin/books/book/?q=faust&lent__exact=0")
    number = re.findall(rb"/admin/books/book/(\d+)/change/", page.body)[0].decode()
    both("GET", f"/admin/books/book/{number}/change/")
    both("POST", "/admin/books/book/", action="lend", _selected_action=number)
    assert b"1 lent" in both("GET", "/admin/books/book/").body
    both("GET", "/admin/autocomplete/?term=g&app_label=books&model_name=book&field_name=author")
    assert both("POST", f"/admin/books/book/{number}/delete/", post="yes").status == 302
    both("GET", "/admin/books/book/")
    both("GET", f"/admin/books/author/{number}/history/")
    both("GET", "/admin/auth/user/")
    both("GET", "/admin/jsi18n/")
    both("POST", "/i18n/setlang/", language="de", next="/admin/")
    assert "Website-Verwaltung" in both("GET", "/admin/").body.decode()
    assert both("POST", "/admin/logout/").status == 200
    browsers[0].token = browsers[1].token = "x" * 64
    assert both("POST", "/ask/").status == 403


def titles(library: Library) -> list[str]:
    return ask(library.twins.confined, HOST, Ask("GET", "/titles.txt")).body.decode().splitlines()


def add(library: Library, title: str) -> bool:
    """Whether it was acknowledged."""
    form = urllib.parse.urlencode({"author": "Kafka", "title": title}).encode()
    try:
        return ask(library.twins.confined, HOST, Ask("POST", "/add", form, FORM)).status == 201
    except (OSError, http.client.HTTPException):
        return False


def test_nothing_acknowledged_is_lost_when_instances_are_killed(library: Library) -> None:
    kept: list[str] = []
    killed = 0
    over = threading.Event()

    def write(who: str) -> None:
        number = 0
        while not over.is_set():
            title = f"{who}{number}"
            number += 1
            if add(library, title):
                kept.append(title)

    writers = [threading.Thread(target=write, args=(who,)) for who in "ab"]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            before = len(kept)
            eventually(lambda: len(kept) > before + 5, 20, "books are kept")  # noqa: B023
            for instance in told(library.node, "ps", "library")["services"][0]["instances"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(instance["pid"], signal.SIGKILL)
                    killed += 1
    finally:
        over.set()
        for writer in writers:
            writer.join()
    there = titles(library)
    assert killed >= 3
    assert set(kept) <= set(there) and len(there) == len(set(there))


def test_a_second_release_migrates_and_keeps_what_is_there(library: Library) -> None:
    """A field more, as one does it: makemigrations, publish. What is there stays, also when the next one fails."""
    before = titles(library)
    models = library.app / "books" / "models.py"
    source = models.read_text()
    added = '    pages = models.PositiveIntegerField(_("pages"), default=0)\n    added = '
    models.write_text(source.replace("    added = ", added))
    library.manage("makemigrations", "books", "--name", "pages", folder=library.app)
    told_so = library.node.fildes("publish", str(library.app), timeout=180).stdout
    assert "Applying books.0002_pages... OK" in told_so
    assert titles(library) == before
    shell = "from books.models import Book; print(Book.objects.filter(pages=0).count())"
    counted = library.node.fildes("run", "library", "--", "python", "manage.py", "shell", "-v0", "-c", shell).stdout
    assert counted.strip() == str(len(before))
    migration = library.app / "books" / "migrations" / "0003_broken.py"
    migration.write_text(
        "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
        '    dependencies = [("books", "0002_pages")]\n'
        '    operations = [migrations.RunSQL("UPDATE books_book SET title = 1"), migrations.RunSQL("SELECT nothing")]\n'
    )
    failed = library.node.fildes("publish", str(library.app), timeout=180, check=False)
    assert failed.returncode == 1
    assert "fildes.toml:5: on_release[0]: `python manage.py migrate` ended with status 1" in failed.stderr
    assert "django.db.utils.OperationalError" in failed.stderr
    assert titles(library) == before
    assert add(library, "still")
