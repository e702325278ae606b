"""The packs of the sites that are being visited: opened when first wanted, the least lately used closed first."""

from __future__ import annotations

import os
from collections import OrderedDict

from fildes.kernel.fds import Fd
from fildes.pack.reader import Pack
from fildes.pages import headers, redirects
from fildes.pages.headers import Headers
from fildes.pages.lines import MAX_FILE
from fildes.pages.redirects import Redirects
from fildes.pages.variants import FOLDERS, ROOT


class Site:
    """A release's pack, open. `users` counts transfers that still read from it after it was let go of."""

    __slots__ = ("_fd", "_gone", "has_variants", "headers", "pack", "redirects", "release", "users")

    def __init__(self, release: str, fd: Fd) -> None:
        """Owns `fd`, also when it raises PackError or PagesError."""
        try:
            self.pack = Pack(fd.fileno())
            self.headers = Headers(self._own(headers.FILE))
            self.redirects = Redirects(self._own(redirects.FILE))
        except BaseException:
            fd.close()
            raise
        self.has_variants = any(self.pack.lookup(folder) for folder in FOLDERS.values())
        self.release = release
        self.users = 0
        self._fd = fd
        self._gone = False

    def _own(self, name: str) -> bytes:
        """What the site says about itself; publish has read it too, and refused what can't be obeyed."""
        entry = self.pack.lookup(f"{ROOT}/{name}")
        return b"" if entry is None or entry.is_dir or entry.size > MAX_FILE else self.pack.read(entry)

    def fileno(self) -> int:
        return self._fd.fileno()

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._fd.fileno(), count, offset)

    def use(self) -> None:
        self.users += 1

    def done(self) -> None:
        self.users -= 1
        self._close_if_unused()

    def let_go(self) -> None:
        self._gone = True
        self._close_if_unused()

    @property
    def gone(self) -> bool:
        return self._gone

    def _close_if_unused(self) -> None:
        if self._gone and not self.users:
            self.pack.close()
            self._fd.close()


class Sites:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sites: OrderedDict[str, Site] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sites)

    def get(self, release: str) -> Site | None:
        site = self._sites.get(release)
        if site is not None:
            self._sites.move_to_end(release)
        return site

    def put(self, site: Site) -> bool:
        """Returns whether another was closed for it: what is cached of it must go."""
        old = self._sites.pop(site.release, None)
        self._sites[site.release] = site
        if old is not None:
            old.let_go()
        if len(self._sites) > self._limit:
            self._sites.popitem(last=False)[1].let_go()
            return True
        return old is not None

    def keep_only(self, releases: set[str]) -> None:
        for release in [r for r in self._sites if r not in releases]:
            self._sites.pop(release).let_go()

    def close(self) -> None:
        self.keep_only(set())
