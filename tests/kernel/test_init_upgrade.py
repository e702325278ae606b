"""init executes itself (SIGHUP): pid, children, descriptors and deposits stay, the code is new."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from fildes.kernel.fds import close_all
from fildes.testing import Node, eventually

from .conftest import Door, Puppets, fds_of


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def hang_up(node: Node, until: str) -> None:
    os.kill(node.pid, signal.SIGHUP)
    eventually(lambda: until in node.output(), what=f"the node to print {until!r}")


def test_an_upgrade_keeps_everything_but_the_code(puppets: Puppets, copy: Path) -> None:
    node, door = puppets(folder=copy)
    reader, writer = os.pipe()
    door.ask("alpha", "deposit", writer, key="pipe", blob="kept \x00 as it is")
    door.ask("alpha", "deposit", key="plain")
    os.close(writer)
    init, daemons, descriptors = node.init, node.daemons(), fds_of(node.init)
    assert door.ask("alpha", "about")["code"] == "old"

    edit(copy / "puppet.py", lambda text: text.replace('CODE = "old"', 'CODE = "new"'))
    edit(copy / "fildes/init/channel.py", lambda text: text.replace('f"fildes: {text}"', 'f"new fildes: {text}"'))
    hang_up(node, "new fildes: upgraded: every daemon runs the new code")

    assert node.init == init
    assert fds_of(init) == descriptors
    assert node.daemons().keys() == daemons.keys()
    assert not set(node.daemons().values()) & set(daemons.values())
    door = Door(node)  # the puppet of the old door was replaced, its connections with it
    try:
        for name in ("alpha", "beta", "listener", "door"):
            assert door.ask(name, "about")["code"] == "new"
        door.send("alpha", "collect")
        answer, fds = door.hear()
        assert answer["deposits"] == [["pipe", "kept \x00 as it is", 1], ["plain", "", 0]]
        os.write(fds[0].fileno(), b"still there")
        assert os.read(reader, 100) == b"still there"
        close_all(fds)
        # And it is a supervisor like the old one.
        old = node.kill("beta")
        assert door.ask("beta", "heard")["exits"] == []
        assert node.daemons()["beta"] != old
        door.ask("alpha", "orphan", status=9)
        eventually(lambda: [os.waitstatus_to_exitcode(s) for _, s in door.ask("listener", "heard")["exits"]] == [9])
    finally:
        door.socket.close()
        os.close(reader)
    node.stop()


def test_code_that_does_not_load_is_not_taken(puppets: Puppets, copy: Path) -> None:
    node, door = puppets(folder=copy)
    daemons = node.daemons()
    edit(copy / "fildes/init/supervisor.py", lambda text: text + "\nthis is no Python\n")
    hang_up(node, "not upgraded: the code on disk failed its check, which ended with status 1; see above")
    assert "SyntaxError" in node.output()
    assert node.daemons() == daemons
    assert door.ask("alpha", "about")["code"] == "old"


def test_the_table_is_the_new_one(puppets: Puppets, copy: Path) -> None:
    node, door = puppets(folder=copy)
    door.ask("beta", "deposit", key="gone with it")
    edit(
        copy / "puppet.py",
        lambda text: text.replace('    Daemon("beta", "puppet", 2,', '    Daemon("gamma", "puppet", 5,'),
    )
    hang_up(node, "upgraded: every daemon runs the new code")
    assert set(node.daemons()) == {"alpha", "gamma", "listener", "door"}
    door = Door(node)
    assert door.ask("gamma", "collect")["deposits"] == []
    door.socket.close()


def test_sigterm_in_the_middle_of_an_upgrade_is_not_lost(puppets: Puppets) -> None:
    for delay in (0.0, 0.02, 0.05, 0.08, 0.12):
        node, _ = puppets()
        os.kill(node.pid, signal.SIGHUP)
        began = time.monotonic()
        # The moment is what is tested; there is nothing to wait on.
        eventually(lambda began=began, delay=delay: time.monotonic() - began >= delay)
        node.stop()  # which is an error where it takes long
