"""A person with a calendar program (the library caldav): `caldav_client.py URL` prints what is seen."""

import json
import socket
import sys
from datetime import UTC, date, datetime, timedelta

_resolve = socket.getaddrinfo


def _here(host, *more, **options):
    return _resolve("127.0.0.1" if host.endswith(".localhost") else host, *more, **options)


socket.getaddrinfo = _here

import caldav  # noqa: E402
from caldav.lib import error  # noqa: E402

DAY = datetime(2026, 3, 2, 9, tzinfo=UTC)


def act(client):
    """A fresh account's first week."""
    seen = {}
    home = client.principal()
    seen["none"] = [calendar.id for calendar in home.calendars()]
    work = home.make_calendar(name="Arbeit & Spaß", cal_id="work")
    home.make_calendar(name="Private", cal_id="private")
    seen["names"] = sorted(calendar.get_display_name() for calendar in home.calendars())
    for number in range(12):
        start = DAY + timedelta(days=number)
        work.save_event(
            dtstart=start, dtend=start + timedelta(hours=1), summary=f"Treffen {number} ✓", uid=f"e{number}"
        )
    work.save_event(dtstart=DAY, dtend=DAY + timedelta(minutes=30), summary="weekly", uid="w", rrule={"FREQ": "WEEKLY"})
    work.save_event(dtstart=date(2026, 3, 5), dtend=date(2026, 3, 6), summary="a day", uid="d")
    work.save_todo(summary="buy milk", due=DAY, uid="t")
    seen["events"] = sorted(str(event.icalendar_component["SUMMARY"]) for event in work.events())
    found = work.search(start=DAY, end=DAY + timedelta(days=3), event=True, expand=True)
    seen["three days"] = sorted(str(event.icalendar_component["SUMMARY"]) for event in found)
    found = work.search(start=DAY + timedelta(days=20), end=DAY + timedelta(days=22), event=True, expand=True)
    seen["later"] = sorted(str(event.icalendar_component["DTSTART"].dt) for event in found)
    event = work.event_by_uid("e3")
    event.icalendar_component["SUMMARY"] = "moved"
    event.save()
    work.event_by_uid("e4").delete()
    work.todo_by_uid("t").complete()
    seen["todos"] = [len(work.todos()), len(work.todos(include_completed=True))]
    try:
        work.event_by_uid("e4")
    except error.NotFoundError:
        seen["gone"] = True
    changes = work.objects_by_sync_token()
    seen["all"] = len(list(changes))
    work.event_by_uid("e5").delete()
    changes.sync()
    seen["synced"] = len(list(changes))
    home.make_calendar(name="passing", cal_id="passing").delete()
    return seen


def look(client):
    return {
        calendar.id: sorted(one.data for one in [*calendar.events(), *calendar.todos(include_completed=True)])
        for calendar in client.principal().calendars()
    }


with caldav.DAVClient(sys.argv[1], username="ada", password="kunst") as client:
    print(json.dumps({"act": act(client), "look": look(client)}, sort_keys=True))
