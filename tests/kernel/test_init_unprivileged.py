"""init as an ordinary user: a user namespace with one uid, and no more than that user may."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fildes.testing import eventually

from .conftest import Puppets, Unprivileged, fds_of


def test_a_node_of_an_ordinary_user(puppets: Puppets, unprivileged: Unprivileged) -> None:
    node, door = puppets(**unprivileged.options)
    about = door.ask("alpha", "about")
    assert about["uid"] == os.stat(node.state).st_uid == unprivileged.uid
    assert about["settings"]["root"] is False
    assert about["settings"]["operator"] == unprivileged.uid
    assert int(about["status"]["CapPrm"], 16) == int(about["status"]["CapEff"], 16) == 0
    assert int(about["status"]["NoNewPrivs"]) == 1
    for pid in (node.init, *node.daemons().values()):
        assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    # Not dumpable: nobody of the same uid may look into it, or attach.
    assert os.stat(f"/proc/{node.daemons()['alpha']}/environ").st_uid == 0
    assert os.stat(node.state / "control").st_uid == unprivileged.uid


def test_it_keeps_restarts_and_ends_like_root_s(puppets: Puppets, unprivileged: Unprivileged) -> None:
    node, door = puppets(**unprivileged.options)
    with open("/dev/null", "rb") as null:
        door.ask("alpha", "deposit", null.fileno(), key="one", drop=True)
        door.ask("alpha", "collect")  # init has read all before it answers this
        before = fds_of(node.init)
        door.ask("alpha", "deposit", null.fileno(), key="one")
    node.kill("alpha")
    assert door.ask("alpha", "collect")["deposits"] == [["one", "", 1]]
    assert fds_of(node.init) == before + 1
    door.ask("alpha", "linger")
    door.ask("alpha", "orphan", status=5)
    node.stop()


def test_without_namespaces_it_ends_everything_all_the_same(puppets: Puppets, unprivileged: Unprivileged) -> None:
    # A namespace in which no further one may be made: the limit is the kernel's own (user_namespaces(7)).
    if unprivileged.launcher_prefix is None:
        pytest.skip("needs setpriv and unshare")
    inner = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    launcher = [*unprivileged.launcher_prefix, *inner, script, "sh", *unprivileged.python]
    node, door = puppets(**{**unprivileged.options, "launcher": launcher})
    assert "without namespaces of its own" in node.output()
    assert os.readlink(f"/proc/{node.init}/ns/pid") == os.readlink("/proc/self/ns/pid")
    door.ask("alpha", "linger")
    door.ask("alpha", "orphan", status=5)
    eventually(lambda: door.ask("listener", "heard")["exits"])
    pids = [*node.daemons().values()]
    node.stop()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
