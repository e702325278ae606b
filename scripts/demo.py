"""What Fildes does, in ten seconds: `make demo`. A node on a state directory of its own, the examples on it, and proof.

Exit status 1 if anything was not as it should be.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from fildes.testing import Leftovers, Node, NodeFailed, eventually

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("guestbook", "chat", "ticker", "site", "ledger", "shop", "tally", "votes", "postcards", "questions")
WIDTH = 90
COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ
BURGLAR = """
import os, socket, time

TRIES = {
    "read /etc/shadow": lambda: open("/etc/shadow").read(),
    "write a file": lambda: open("/app/mark", "w"),
    "connect to 127.0.0.1": lambda: socket.create_connection(("127.0.0.1", 22), 1),
    "start a process": lambda: os.fork(),
    "tell the time": lambda: time.time(),
    "draw random numbers": lambda: os.urandom(8),
}

def attempt(what):
    try:
        return f"succeeded: {what()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

async def app(scope, receive, send):
    if scope["type"] == "http":
        body = "\\n".join(f"{name}|{attempt(what)}" for name, what in TRIES.items()).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""


class Wrong(Exception):
    """Something was not as it should be; the text says what."""


class Report:
    """Prints what happens, each thing with the time that it took, and counts what went wrong."""

    def __init__(self) -> None:
        self.failed = 0

    def chapter(self, title: str) -> None:
        print(f"\n{_painted('1', title)}", flush=True)

    def line(self, mark: str, name: str, text: str, took: str = "") -> None:
        print(f"  {mark} {name:<12} {text:<{WIDTH}}  {_painted('2', took)}".rstrip(), flush=True)

    def good(self, name: str, text: str, seconds: float) -> None:
        self.line(_painted("32", "✓"), name, text, _span(seconds))

    def bad(self, name: str, text: str) -> None:
        self.failed += 1
        self.line(_painted("31", "✗"), name, text)

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[list[str]]:
        """Times the block; what is put into the list is said instead of `text`."""
        said = [text]
        began = time.monotonic()
        try:
            yield said
        except Exception as error:
            self.bad(name, f"{text}: {error}")
        else:
            self.good(name, said[-1], time.monotonic() - began)


def main() -> int:
    began = time.monotonic()
    report = Report()
    print("Fildes: a Python program holds the file descriptors that it was granted, and nothing else.")
    scratch = Path(tempfile.mkdtemp(prefix="fildes-demo-"))
    try:
        report.chapter("A node starts: fildes up --state DIR --http 127.0.0.1:0")
        with Node(scratch / "state") as node:
            where = f"http://127.0.0.1:{node.addresses[0][1]}/"
            report.good("up", f"{len(node.daemons())} daemons, each confined, behind {where}", node.start_seconds)
            _publish(node, report)
            _talk(node, report)
            _hold(node, report)
            _break_in(node, report, scratch / "burglar")
            _kill(node, report)
            report.chapter("The node ends, as by Ctrl-C")
            with report.step("down", "no process, mount, cgroup or socket of it is left"):
                node.stop()
    except (NodeFailed, Leftovers) as error:
        report.bad("node", str(error))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    took = time.monotonic() - began
    if report.failed:
        print(f"\n{_painted('31', f'{report.failed} of these went wrong')} ({took:.0f} s). See: fildes doctor")
        return 1
    print(f"\nAll of that in {took:.0f} s. Now a node of your own: README.md")
    return 0


# — publishing —


def _publish(node: Node, report: Report) -> None:
    report.chapter("Folders become services: fildes publish examples/NAME")
    for name in NAMES:
        with report.step(name, "published") as said:
            published = _told(node, "publish", str(EXAMPLES / name))
            where = next(iter(published["urls"]), "(no address: other services only)")
            said.append(f"{where:<37} {_phases(published['phases'])}")
    with report.step("guestbook", "published again") as said:
        if not _told(node, "publish", str(EXAMPLES / "guestbook"))["unchanged"]:
            raise Wrong("it should have been found unchanged")
        said.append("once more: unchanged, nothing to do")


def _phases(phases: dict[str, float]) -> str:
    shown = ("resolve", "install", "warm.import", "warm.start")
    return ", ".join(f"{phase.rpartition('.')[2]} {_span(phases[phase] / 1e3)}" for phase in shown if phase in phases)


# — talking —


def _talk(node: Node, report: Report) -> None:
    report.chapter("They are talked to")
    scenes: dict[str, tuple[str, Callable[[Node], str]]] = {
        "guestbook": ("a guest signs", _sign),
        "chat": ("two people talk", lambda node: asyncio.run(asyncio.wait_for(_chat(node), 15))),
        "ticker": ("the clock ticks", _tick),
        "site": ("pages are read", _read),
        "shop": ("tea is sold", _buy),
        "votes": ("a vote is counted", _vote),
        "postcards": ("a card is read", _card),
        "questions": ("a question is asked", _ask),
    }
    for name, (text, scene) in scenes.items():
        with report.step(name, text) as said:
            said.append(scene(node))


def _sign(node: Node) -> str:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    _get(node, "guestbook", "/", 303, method="POST", body=b"name=Ada&text=hello+there", headers=form)
    page = _get(node, "guestbook", "/")
    found = re.search(r"<b>Ada</b> <small>([^<]+)</small><br>hello there", page)
    if found is None:
        raise Wrong("Ada's entry is not on the page")
    return f"Ada signs, and the page has it: {found[1]} UTC, by the clock that was granted"


async def _chat(node: Node) -> str:
    address, port = node.addresses[0]
    options: dict[str, Any] = {"host": address, "port": port, "proxy": None}
    url = "ws://chat.localhost/room"
    async with connect(url, **options) as ada, connect(url, **options) as bob:
        await bob.recv()
        began = time.monotonic()
        await ada.send("hello, Bob")
        if (heard := await bob.recv()) != "hello, Bob":
            raise Wrong(f"Bob heard {heard!r}")
        return f"two WebSockets: what Ada says, Bob hears after {_span(time.monotonic() - began)}"


def _tick(node: Node) -> str:
    with closing(http.client.HTTPConnection(*node.addresses[0], timeout=15)) as connection:
        connection.request("GET", "/events", headers={"Host": "ticker.localhost"})
        answer = connection.getresponse()
        ticks: list[int] = []
        while len(ticks) < 2:
            line = answer.readline()
            if line.startswith(b"data: "):
                ticks.append(int(line[6:]))
    if not 0 < ticks[1] - ticks[0] < 2000:
        raise Wrong(f"it ticked at {ticks}")
    return "server-sent events, one a second"


def _read(node: Node) -> str:
    pages = (("/", 200, "index.html"), ("/about/", 200, "about/index.html"), ("/nowhere", 404, "404.html"))
    for path, status, file in pages:
        if _get(node, "site", path, status) != (EXAMPLES / "site" / file).read_text():
            raise Wrong(f"{path} is not {file}")
    tag = node.request("/", host="site.localhost").headers["ETag"]
    _get(node, "site", "/", 304, headers={"If-None-Match": tag})
    return "byte for byte as in its folder; 304 for who has it already, its own page for 404"


def _buy(node: Node) -> str:
    _get(node, "shop", "/buy/tea", 303, method="POST")
    if "Sold so far: 1 things, 3.20" not in _get(node, "shop", "/"):
        raise Wrong("the ledger did not book it")
    return "sells a tea; the ledger, which nobody else can reach, has booked it"


def _vote(node: Node) -> str:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    _get(node, "votes", "/", 303, method="POST", body=b"choice=cake", headers=form)
    if json.loads(_get(node, "votes", "/counts")) != {"cake": 1}:
        raise Wrong("the vote was not counted")
    return "one vote for cake: a function took it, and a service without HTTP has counted it"


def _ask(node: Node) -> str:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    _get(node, "questions", "/", 302, method="POST", body=b"text=Why%3F", headers=form)
    if "Why? — 0" not in _get(node, "questions", "/"):
        raise Wrong("the question is not on the page")
    return "Flask, unmodified, shows the question that was asked"


def _card(node: Node) -> str:
    if "Somewhere after midnight" not in _get(node, "postcards", "/from/night-train"):
        raise Wrong("the card is not what it was")
    return "Starlette and Jinja2 as they are: a template, read where there are no files"


# — proof —


def _hold(node: Node, report: Report) -> None:
    report.chapter("All that the guestbook holds, read from the kernel: fildes caps guestbook")
    with report.step("caps", "its table") as said:
        processes = _told(node, "caps", "guestbook")["processes"]
        [instance] = [process for process in processes if process["name"].startswith("instance")]
        grouped: dict[tuple[str, str], list[str]] = {}
        for entry in instance["fds"]:
            what = entry["target"].replace(str(node.state), "DIR")
            what = re.sub(r"([0-9a-f]{8})[0-9a-f]{16,}|\[\d+\]", lambda found: f"{found[1]}…" if found[1] else "", what)
            grouped.setdefault((what, entry["why"] or "?"), []).append(str(entry["fd"]))
        for (what, why), numbers in grouped.items():
            report.line(" ", " ".join(numbers), f"  {what:<42} {why}")
        if unexplained := [entry["fd"] for entry in instance["fds"] if not entry["why"]]:
            raise Wrong(f"nothing explains {unexplained}")
        said.append(f"{len(instance['fds'])} descriptors, each explained; no file system, no network, no other process")


def _break_in(node: Node, report: Report, folder: Path) -> None:
    report.chapter("A program that was granted nothing tries its luck")
    with report.step("burglar", "it tries") as said:
        folder.mkdir()
        (folder / "burglar.py").write_text(BURGLAR)
        (folder / "fildes.toml").write_text(
            'name = "burglar"\nruntime = "asgi"\nentry = "burglar:app"\nhosts = ["burglar.localhost"]\n'
        )
        _told(node, "publish", str(folder))
        tries = [line.split("|", 1) for line in _get(node, "burglar", "/").splitlines()]
        for what, outcome in tries:
            if "|" in outcome or outcome.startswith("succeeded"):
                raise Wrong(f"{what}: {outcome}")
            sentence = re.sub(r"^\w+: \[Errno \d+\] ", "", outcome)
            report.line(" ", "", f"{what:<21} {sentence if len(sentence) < 71 else sentence[:70] + '…'}")
        said.append(f"{len(tries)} tries, {len(tries)} refusals; published and asked in")


class Visitor(threading.Thread):
    """Asks for the guestbook until told to stop: over one kept connection, or over a new one each time."""

    def __init__(self, node: Node, kept: bool) -> None:
        super().__init__(daemon=True)
        self.address, self.kept = node.addresses[0], kept
        self.stopped = threading.Event()
        self.answers = 0
        self.slowest = 0.0
        self.trouble = ""

    def run(self) -> None:
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        try:
            while not self.stopped.wait(0.002):
                began = time.monotonic()
                connection.request("GET", "/", headers={"Host": "guestbook.localhost"})
                answer = connection.getresponse()
                if answer.status != 200 or b"Ada" not in answer.read():
                    raise Wrong(f"an answer of {answer.status}")
                self.answers += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
                if not self.kept:
                    connection.close()
        except Exception as error:
            self.trouble = f"{type(error).__name__}: {error}"
        finally:
            connection.close()


def _kill(node: Node, report: Report) -> None:
    report.chapter("kill -9 of the front door, the process that takes every connection, while requests run")
    visitors = [Visitor(node, kept=number % 2 == 0) for number in range(8)]
    back = 0.0
    with report.step("web", "it is killed") as said:
        for visitor in visitors:
            visitor.start()
        try:
            eventually(lambda: all(visitor.answers > 20 for visitor in visitors))
            killed = node.kill("web")
            began = time.monotonic()
            eventually(lambda: node.daemons().get("web") not in (None, killed))
            before = [visitor.answers for visitor in visitors]
            eventually(lambda: all(v.answers > b + 20 or v.trouble for v, b in zip(visitors, before, strict=True)))
            back = time.monotonic() - began
        finally:
            for visitor in visitors:
                visitor.stopped.set()
            for visitor in visitors:
                visitor.join(15)
        if broken := [visitor.trouble for visitor in visitors if visitor.trouble]:
            raise Wrong("; ".join(broken))
        kept, new = (sum(v.answers for v in visitors if v.kept is which) for which in (True, False))
        slowest = max(visitor.slowest for visitor in visitors)
        said.append(
            f"{kept} requests on 4 kept connections, {new} on new ones: none failed, the slowest took {_span(slowest)}"
        )
    if back:
        pid = node.daemons()["web"]
        report.good("web", f"its successor, process {pid}, had answered all of them again after", back)


# — small things —


def _get(node: Node, name: str, path: str, status: int = 200, **more: Any) -> str:
    answer = node.request(path, host=f"{name}.localhost", **more)
    if answer.status != status:
        raise Wrong(f"{path} answers {answer.status} instead of {status}: {answer.body.decode()[:200]}")
    return answer.body.decode()


def _told(node: Node, *words: str) -> Any:
    try:
        return json.loads(node.fildes(*words, "--json", timeout=120).stdout)
    except NodeFailed as failed:
        raise Wrong(str(failed).partition("\n")[2].strip() or str(failed)) from failed


def _span(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def _painted(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURS and text else text


if __name__ == "__main__":
    sys.exit(main())
