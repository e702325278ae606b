"""Radicale, a CalDAV server, used by a CalDAV library and by hand, as its own server gives it, unconfined; and its
collections in a tree that lasts.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fildes.testing import Node

from .conftest import APPS, install, told
from .programs import Ask, Twins, ask, taken, unconfined

HOST = "calendar.localhost"
USERS = "ada:kunst\nbob:musik\n"
ADA = {"Authorization": "Basic YWRhOmt1bnN0"}
BOB = {"Authorization": "Basic Ym9iOm11c2lr"}
XML = {"Content-Type": "application/xml; charset=utf-8"}
ALL = b'<?xml version="1.0"?><propfind xmlns="DAV:"><allprop/></propfind>'
ONE = b'<propfind xmlns="DAV:"><prop><displayname/><resourcetype/><current-user-principal/></prop></propfind>'
QUERY = b"""\
<c:calendar-query xmlns:d="DAV:" xmlns:c="urn:ietf:params:xml:ns:caldav">
<d:prop><d:getetag/><c:calendar-data/></d:prop>
<c:filter><c:comp-filter name="VCALENDAR"><c:comp-filter name="VEVENT">
<c:time-range start="20260302T000000Z" end="20260304T000000Z"/>
</c:comp-filter></c:comp-filter></c:filter></c:calendar-query>"""
MAKE = b"""\
<c:mkcalendar xmlns:d="DAV:" xmlns:c="urn:ietf:params:xml:ns:caldav">
<d:set><d:prop><d:displayname>By hand</d:displayname></d:prop></d:set>
</c:mkcalendar>"""
EVENT = b"""\
BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//by//hand//
BEGIN:VEVENT
UID:h1
DTSTAMP:20260301T000000Z
DTSTART:20260302T090000Z
DTEND:20260302T100000Z
SUMMARY:By hand
END:VEVENT
END:VCALENDAR
""".replace(b"\n", b"\r\n")
RENAME = b'<propertyupdate xmlns="DAV:"><set><prop><displayname>Renamed</displayname></prop></set></propertyupdate>'
CARD = b"BEGIN:VCARD\r\nVERSION:3.0\r\nUID:c1\r\nFN:Ada L\r\nN:L;Ada;;;\r\nEND:VCARD\r\n"
BOOK = b"""\
<mkcol xmlns="DAV:" xmlns:r="urn:ietf:params:xml:ns:carddav">
<set><prop><resourcetype><collection/><r:addressbook/></resourcetype></prop></set>
</mkcol>"""
BY_HAND = [
    Ask("GET", "/"),
    Ask("GET", "/.well-known/caldav"),
    Ask("GET", "/.web/"),
    Ask("GET", "/.web/fn.js"),
    Ask("GET", "/.web/../radicale.conf"),
    Ask("OPTIONS", "/"),
    Ask("PROPFIND", "/", ONE, XML | {"Depth": "0"}),
    Ask("PROPFIND", "/", ONE, XML | {"Depth": "0"} | {"Authorization": "Basic YWRhOmZhbHNjaA=="}),
    Ask("PROPFIND", "/", ALL, XML | ADA | {"Depth": "1"}),
    Ask("PROPFIND", "/ada/", ALL, XML | BOB | {"Depth": "1"}),
    Ask("MKCALENDAR", "/bob/hand/", MAKE, XML | BOB),
    Ask("MKCALENDAR", "/bob/hand/", MAKE, XML | BOB),
    Ask("MKCALENDAR", "/ada/theirs/", MAKE, XML | BOB),
    Ask("PUT", "/bob/hand/h1.ics", EVENT, BOB | {"Content-Type": "text/calendar"}),
    Ask("PUT", "/bob/hand/h1.ics", EVENT, BOB | {"Content-Type": "text/calendar", "If-None-Match": "*"}),
    Ask("PUT", "/bob/hand/bad.ics", b"no calendar", BOB | {"Content-Type": "text/calendar"}),
    Ask("GET", "/bob/hand/h1.ics", headers=BOB),
    Ask("HEAD", "/bob/hand/h1.ics", headers=BOB),
    Ask("GET", "/bob/hand/h2.ics", headers=BOB),
    Ask("GET", "/bob/hand/", headers=BOB),
    Ask("REPORT", "/bob/hand/", QUERY, XML | BOB | {"Depth": "1"}),
    Ask("REPORT", "/bob/hand/", QUERY.replace(b"202603", b"202703"), XML | BOB | {"Depth": "1"}),
    Ask("REPORT", "/bob/hand/", b"<broken", XML | BOB),
    Ask("PROPPATCH", "/bob/hand/", RENAME, XML | BOB),
    Ask("PROPFIND", "/bob/", ONE, XML | BOB | {"Depth": "1"}),
    Ask("MKCOL", "/bob/people/", BOOK, XML | BOB),
    Ask("PUT", "/bob/people/c1.vcf", CARD, BOB | {"Content-Type": "text/vcard"}),
    Ask("GET", "/bob/people/", headers=BOB),
    Ask("DELETE", "/bob/hand/h1.ics", headers=BOB),
    Ask("DELETE", "/bob/hand/h1.ics", headers=BOB),
    Ask("DELETE", "/bob/people/", headers=BOB),
    Ask("LOCK", "/bob/hand/", headers=BOB),
]
# Names of moments, and the moments.
VARYING = [r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", r"radicale.org/ns/sync/\w+"]


class Calendar(NamedTuple):
    twins: Twins
    client: Path  # its packages

    def person(self, address: tuple[str, int]) -> Any:
        """What the person at the calendar program sees, but for the moments."""
        words = [sys.executable, "-W", "ignore", str(APPS / "caldav_client.py"), f"http://{HOST}:{address[1]}/"]
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment |= {"PYTHONPATH": str(self.client), "HOME": str(self.client)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(re.sub(r"(DTSTAMP|COMPLETED|LAST-MODIFIED|CREATED):\w+", r"\1:", done.stdout))


@pytest.fixture(scope="module")
def calendar(town: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calendar]:
    folder = tmp_path_factory.mktemp("calendar")
    app = taken("calendar", folder)
    words = [sys.executable, "-m", "fildes.cli", "secret", "set", "calendar", "users"]
    environment = os.environ | {"FILDES_STATE": str(town.state)}
    subprocess.run(words, env=environment, input=USERS.encode(), check=True, timeout=20)
    town.fildes("publish", str(app), timeout=180)
    packages = install(folder / "packages", "-r", str(app / "requirements.txt"))
    client = install(folder / "client", "caldav")
    (folder / "users").write_text(USERS)
    settings = (app / "radicale.conf").read_text()
    settings = settings.replace("/run/secrets", str(folder)).replace("/data", str(folder))
    (folder / "plain.conf").write_text(settings)
    command = ["-m", "radicale", "--config", str(folder / "plain.conf"), "--server-hosts", "127.0.0.1:PORT"]
    with unconfined(app, packages, *command) as address:
        yield Calendar(Twins(town, HOST, address), client)
    town.fildes("rm", "calendar", "--data", check=False)


def test_every_answer_is_what_its_own_server_gives(calendar: Calendar) -> None:
    heard = calendar.twins.agree(BY_HAND, varying=VARYING)
    assert {200, 201, 207, 400, 401, 403, 404, 405, 409, 412} <= {answer.status for answer in heard}
    assert not any(answer.status >= 500 for answer in heard)


def test_a_person_with_a_calendar_program(calendar: Calendar) -> None:
    twins = calendar.twins
    confined, unconfined = (calendar.person(address) for address in (twins.confined, twins.unconfined))
    assert confined == unconfined
    acted = confined["act"]
    assert acted["three days"] == ["Treffen 0 ✓", "Treffen 1 ✓", "Treffen 2 ✓", "a day", "weekly"] and acted["gone"]
    assert sorted(confined["look"]) == ["private", "work"] and len(confined["look"]["work"]) == 13


def test_an_event_is_moved(calendar: Calendar) -> None:
    """By a whole address, as clients write it: it is compared with the program's own."""
    address = calendar.twins.confined
    for one in (
        Ask("MKCALENDAR", "/bob/moves/", MAKE, XML | BOB),
        Ask("PUT", "/bob/moves/h1.ics", EVENT, BOB | {"Content-Type": "text/calendar"}),
        Ask("MOVE", "/bob/moves/h1.ics", headers=BOB | {"Destination": f"http://{HOST}/bob/moves/h3.ics"}),
    ):
        assert ask(address, HOST, one).status == 201
    assert b"By hand" in ask(address, HOST, Ask("GET", "/bob/moves/h3.ics", headers=BOB)).body
    elsewhere = BOB | {"Destination": "http://elsewhere.example/bob/moves/h4.ics"}
    assert ask(address, HOST, Ask("MOVE", "/bob/moves/h3.ics", headers=elsewhere)).status == 502


def test_collections_survive_what_ends_and_begins(calendar: Calendar) -> None:
    node, address = calendar.twins.node, calendar.twins.confined
    work = Ask("GET", "/ada/work/", headers=ADA)
    before = ask(address, HOST, work)
    assert before.body.count(b"BEGIN:VEVENT") == 12
    for instance in told(node, "ps", "calendar")["services"][0]["instances"]:
        os.kill(instance["pid"], signal.SIGKILL)
    assert ask(address, HOST, work) == before
    node.fildes("stop", "calendar")
    assert ask(address, HOST, work) == before
    node.fildes("freeze", "calendar")
    node.fildes("thaw", "calendar")
    assert ask(address, HOST, work) == before
