"""shared: hands out clocks and randomness.

In: its channel, and from init's store the clock page of a killed forerunner: holders of it go on being told when the
machine's clock is set. No settings are used.
"""

from __future__ import annotations

from fildes.capabilities.clock.driver import ClockPage, rearm, watch_for_set
from fildes.capabilities.random.driver import open_random
from fildes.daemon.peer import Asked, Peer, Refused
from fildes.daemon.start import Inheritance, confine
from fildes.daemon.store import Deposit, Store
from fildes.kernel.fds import Fd, close_all
from fildes.kernel.loop import EPOLLIN, Loop
from fildes.kernel.timers import was_set
from fildes.wire.drivers import Open, Opened

_PAGE = "clock.page"


class Shared:
    """Owns the clock page and the timer that tells when the machine's clock is set."""

    def __init__(self, loop: Loop, page: ClockPage) -> None:
        self._loop, self._page = loop, page
        self._timer = watch_for_set()
        page.set()  # it may have been set between the page's making and here
        loop.watch(self._timer.fileno(), EPOLLIN, self._on_set)

    async def open(self, asked: Asked[Open]) -> tuple[Opened, list[Fd]]:
        grant = asked.body
        if grant.kind == "random":
            return Opened(grant.kind), [open_random()]
        if grant.kind == "clock":
            return Opened(grant.kind), self._page.open()
        raise Refused("malformed", f"the shared driver opens clock and random, not {grant.kind!r}")

    def _on_set(self, _: int) -> None:
        if was_set(self._timer.fileno()):
            rearm(self._timer)
            self._page.set()

    def close(self) -> None:
        self._loop.unwatch(self._timer.fileno())
        self._timer.close()
        self._page.close()


def take_page(store: Store, deposits: list[Deposit]) -> ClockPage:
    """The forerunner's page, or a new one in the store. Consumes the deposits."""
    page = None
    for key, _, fds in deposits:
        if key == _PAGE and len(fds) == 1 and page is None:
            page = ClockPage(Fd(fds[0].take()), fresh=False)
        close_all(fds)
    if page is None:
        page = ClockPage.make()
        store.deposit(_PAGE, b"", [page.fd])
    return page


def main(inheritance: Inheritance) -> None:
    loop = Loop()
    store = Store(loop, inheritance.store)
    shared = Shared(loop, take_page(store, loop.run_until(loop.spawn(store.collect()))))
    peer = Peer(loop, inheritance.channel)
    peer.on("shared.open", Open, shared.open)
    confine("shared")
    store.ready()
    loop.run()
