"""init with small real daemons (puppets/puppet.py): what it keeps, what it starts again, how it ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from fildes.kernel.fds import close_all
from fildes.kernel.process import pidfd_pid
from fildes.testing import Node, NodeFailed, eventually

from .conftest import Door, Puppets, fds_of


def again(node: Node, daemon: str, old: int) -> int:
    """The pid of the successor of `daemon`'s process `old`."""
    return eventually(lambda: (new := node.daemons().get(daemon)) != old and new, what=f"{daemon} to come back")


def test_what_a_daemon_is_given(puppets: Puppets) -> None:
    node, door = puppets()
    about = door.ask("alpha", "about")
    named = about["named"]
    assert list(named) == ["state"]
    assert about["fds"][str(named["state"])] == str(node.state / "alpha")
    # 0, 1, 2; channel and store; the named one; its loop's; and the listing's own, which is gone when it is looked at
    sockets = [link for link in about["fds"].values() if link.startswith("socket:")]
    assert len(sockets) == 2
    others = {link.split(":")[0] for number, link in about["fds"].items() if int(number) > 2}
    assert others == {"socket", "anon_inode", str(node.state / "alpha")}
    assert about["fds"]["0"] == "/dev/null"
    assert about["fds"]["1"] == about["fds"]["2"]
    assert about["fds"]["2"].startswith("pipe:")
    assert about["session"] == about["pid"]
    assert int(about["status"]["NoNewPrivs"]) == 1
    assert about["status"]["Name"] == "fd-alpha"
    assert int(about["status"]["CapEff"], 16) == int(about["status"]["CapPrm"], 16) == 0
    assert about["settings"]["state"] == str(node.state)
    assert set(door.ask("door", "about")["named"]) == {
        "control",
        *(f"channel.{name}" for name in ("alpha", "beta", "listener", "door")),
    }


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: uids of the node's own")
def test_as_root_each_daemon_has_its_own_uid_and_only_its_capabilities(puppets: Puppets) -> None:
    node, door = puppets()
    about = {name: door.ask(name, "about") for name in ("alpha", "beta", "listener")}
    base = about["alpha"]["settings"]["uid_base"]
    assert about["alpha"]["uid"] == about["alpha"]["gid"] == base + 1
    assert about["beta"]["uid"] == base + 2
    assert about["listener"]["uid"] == 0
    assert [about[name]["groups"] for name in about] == [[], [], []]
    for kind in ("CapEff", "CapPrm"):
        assert int(about["beta"]["status"][kind], 16) == 1 << 19
        assert int(about["listener"]["status"][kind], 16) == 0
    # What its imports needed stays in the bounding set, where no-new-privs makes it harmless.
    assert int(about["beta"]["status"]["CapBnd"], 16) == 1 << 19 | 1 << 2
    assert os.stat(node.state / "alpha").st_uid == base + 1


def test_init_is_pid_1_of_its_own_namespaces(puppets: Puppets) -> None:
    node, _ = puppets()
    for kind in ("pid", "mnt", "ipc"):
        assert os.readlink(f"/proc/{node.init}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    status = Path(f"/proc/{node.init}/status").read_text()
    assert "NSpid:\t" in status
    assert status.split("NSpid:\t")[1].splitlines()[0].split()[-1] == "1"
    # Nothing that the node mounts is seen outside, and its own /proc counts its own pids.
    inside = Path(f"/proc/{node.init}/mountinfo").read_text()
    assert inside.count(" /proc ") > Path("/proc/self/mountinfo").read_text().count(" /proc ")


def test_deposits_and_what_is_queued_survive_kill_9(puppets: Puppets) -> None:
    node, door = puppets()
    reader, writer = os.pipe()
    try:
        door.ask("alpha", "deposit", writer, reader, key="pipe", blob="a blob")
        door.ask("alpha", "deposit", key="no descriptors")
        door.ask("alpha", "deposit", key="dropped", drop=True)
        old = node.kill("alpha")
        door.send("alpha", "collect")  # it waits in the channel of a daemon that is not there
        answer, fds = door.hear()
        assert again(node, "alpha", old) != old
        assert answer["deposits"] == [["pipe", "a blob", 2], ["no descriptors", "", 0]]
        os.write(fds[0].fileno(), b"the same pipe")
        assert os.read(reader, 100) == b"the same pipe"
        close_all(fds)
        os.close(writer)
        writer = -1
        # init holds the last writer now: dropping the deposit closes it.
        door.ask("alpha", "deposit", key="pipe")
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def test_a_daemon_sees_only_its_own_deposits(puppets: Puppets) -> None:
    _, door = puppets()
    door.ask("alpha", "deposit", key="mine")
    assert door.ask("beta", "collect")["deposits"] == []
    door.ask("beta", "deposit", key="mine", blob="other")
    assert door.ask("alpha", "collect")["deposits"] == [["mine", "", 0]]


def test_quotas_are_refused_with_a_sentence_and_leak_nothing(puppets: Puppets) -> None:
    node, door = puppets()
    with open("/dev/null", "rb") as null:
        fd = null.fileno()
        before = fds_of(node.init)
        door.ask("beta", "deposit", fd, fd, fd, fd, key="many")
        door.ask("beta", "deposit", fd, fd, fd, key="too many")
        door.ask("beta", "deposit", fd, fd, fd, fd, fd, key="many")  # in place of the four: five fit
        for number in range(4):
            door.ask("beta", "deposit", key=f"more {number}")
        refused = eventually(lambda: len(r := door.ask("beta", "heard")["refused"]) == 2 and r)
    assert refused == [
        "too many: it may deposit 6 descriptors in all: drop some first",
        "more 3: its 4 deposits are all in use: drop one first",
    ]
    assert fds_of(node.init) == before + 5


def test_a_thousand_deposits_leave_no_descriptor_in_init(puppets: Puppets) -> None:
    node, door = puppets()
    with open("/dev/null", "rb") as null:
        door.ask("alpha", "deposit", null.fileno(), key="first", drop=True)
        door.ask("alpha", "collect")  # init has read all before it answers this
        before = fds_of(node.init), fds_of(node.daemons()["alpha"])
        door.ask("alpha", "deposit", null.fileno(), null.fileno(), key="k{}", times=1000, drop=True)
        door.ask("alpha", "deposit", null.fileno(), key="same", times=1000)
        assert door.ask("alpha", "collect")["deposits"] == [["same", "", 1]]
        door.ask("alpha", "deposit", key="same", drop=True)
    door.ask("alpha", "collect")
    assert (fds_of(node.init), fds_of(node.daemons()["alpha"])) == before


def test_a_thousand_deposits_come_back_page_by_page(puppets: Puppets) -> None:
    node, door = puppets()
    with open("/dev/null", "rb") as null:
        door.ask("alpha", "deposit", null.fileno(), null.fileno(), key="k{}", times=1000, blob="x" * 1024)
    assert door.ask("alpha", "collect", silent=True) == {"count": 1000}
    before = fds_of(node.init)
    # Killed while it collects: its successor collects all the same, and init holds no more than before.
    for _ in range(3):
        door.send("alpha", "collect", silent=True)
        old = node.kill("alpha")
        again(node, "alpha", old)
        answer, _ = door.hear() if _answered(door) else ({}, [])
        assert answer in ({}, {"count": 1000})
        assert door.ask("alpha", "collect", silent=True) == {"count": 1000}
    assert fds_of(node.init) == before


def _answered(door: Door) -> bool:
    """Whether the order that a killed puppet may have swallowed is being answered by its successor."""
    import select

    return bool(select.select([door.socket], [], [], 1.0)[0])


def test_orphans_are_reaped_and_reported_to_whom_the_table_says(puppets: Puppets) -> None:
    node, door = puppets()
    old = node.kill("listener")
    door.ask("alpha", "orphan", status=7)  # while the listener may be down: the report waits
    again(node, "listener", old)
    exits = eventually(lambda: door.ask("listener", "heard")["exits"])
    assert [os.waitstatus_to_exitcode(status) for _, status in exits] == [7]
    assert door.ask("alpha", "heard")["exits"] == []


def test_who_may_sees_what_runs(puppets: Puppets) -> None:
    node, door = puppets()
    old = node.kill("alpha")
    again(node, "alpha", old)
    eventually(lambda: door.ask("alpha", "collect"))
    door.send("door", "daemons")
    answer, fds = door.hear()
    with_names = {name: (state, restarts) for name, state, restarts, _ in answer["daemons"]}
    assert with_names["alpha"] == ("ready", 1)
    assert with_names["beta"] == ("ready", 0)
    # The pids are of init's namespace; the pidfds say who that is here.
    names = [name for name, _, _, _ in answer["daemons"]]
    assert {n: pidfd_pid(fd.fileno()) for n, fd in zip(names, fds, strict=True)} == node.daemons()
    close_all(fds)
    assert door.ask("alpha", "daemons")["daemons"] == []


def test_service_resumes_at_once_after_kill_9_of_any_daemon(puppets: Puppets) -> None:
    node, door = puppets()
    before = fds_of(node.init)
    for name in ("alpha", "beta", "listener"):
        times = []
        for _ in range(3):
            old = node.kill(name)
            began = time.monotonic()
            door.ask(name, "heard")
            times.append(time.monotonic() - began)
            assert node.daemons()[name] != old
        assert min(times) < 0.25, times  # the best of three: others may be using this machine
    assert fds_of(node.init) == before


def test_a_child_that_a_killed_daemon_left_is_killed_with_it(puppets: Puppets) -> None:
    node, door = puppets()
    if "/fildes-" not in Path(f"/proc/{node.daemons()['alpha']}/cgroup").read_text():
        pytest.skip("needs cgroups")
    door.ask("alpha", "linger")
    [left] = _children(node.daemons()["alpha"])
    old = node.kill("alpha")
    again(node, "alpha", old)
    eventually(lambda: not Path(f"/proc/{left}").exists(), what="the child to be gone")


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_child_in_the_group_of_a_killed_daemon_is_killed_with_it(puppets: Puppets) -> None:
    node, door = puppets()
    door.ask("alpha", "linger", session=False)
    [left] = _children(node.daemons()["alpha"])
    node.kill("alpha")
    eventually(lambda: not Path(f"/proc/{left}").exists(), what="the child to be gone")


def test_garbage_is_refused_with_a_line_each_and_harms_nobody(puppets: Puppets) -> None:
    node, door = puppets()
    before = fds_of(node.init)
    door.ask("alpha", "garbage")
    assert door.ask("alpha", "collect") == {"deposits": []}
    assert "fildes: alpha: a frame for init starts with one of 'rdxcp', not b'?'" in node.output()
    assert node.output().count("fildes: alpha: ") == 5  # and then it is quiet about it
    assert fds_of(node.init) == before
    assert door.ask("beta", "collect") == {"deposits": []}


def test_a_daemon_that_asks_and_never_reads_slows_itself_only(puppets: Puppets) -> None:
    node, door = puppets()
    before = fds_of(node.init) + 800
    with open("/dev/null", "rb") as null:
        door.ask("alpha", "deposit", *[null.fileno()] * 4, key="k{}", times=200, blob="x" * 1000)
    eventually(lambda: fds_of(node.init) == before, what="all are deposited")
    assert door.ask("alpha", "flood")["asked"] > 256
    began = time.monotonic()
    assert door.ask("beta", "collect") == {"deposits": []}
    assert time.monotonic() - began < 5
    used, began = _cpu(node.init), time.monotonic()
    eventually(lambda: time.monotonic() - began > 0.5)
    assert _cpu(node.init) - used <= 10  # hundredths of a second: init waits for room, it does not spin
    node.kill("alpha")
    assert door.ask("alpha", "collect", silent=True) == {"count": 200}
    eventually(lambda: fds_of(node.init) == before, what="as many as before")


def _cpu(pid: int) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def test_a_crash_loop_is_slowed_down_and_said_and_the_rest_goes_on(puppets: Puppets) -> None:
    node, door = puppets("FRAGILE")
    door.ask("fragile", "deposit", key="crash")
    node.kill("fragile")
    eventually(lambda: "trying again in 0.5 s" in node.output())
    assert "fragile (pid " in node.output()
    assert "ended with status 3, more than 3 times in 5 s; trying again in 0.5 s" in node.output()
    door.send("door", "daemons")
    answer, fds = door.hear()
    close_all(fds)
    assert door.ask("alpha", "collect")["deposits"] == []
    assert {name: state for name, state, _, _ in answer["daemons"]}["alpha"] == "ready"
    eventually(lambda: "trying again in 1 s" in node.output())


def test_a_node_that_can_not_start_says_why_and_leaves_nothing(puppets: Puppets) -> None:
    with pytest.raises(NodeFailed) as failure:
        puppets("BROKEN")
    text = str(failure.value)
    assert "RuntimeError: broken as a test ordered" in text
    assert "broken (pid " in text
    assert "3 times in a row: this node can't start; the reason is above" in text


def test_the_end_is_in_order_and_leaves_nothing(puppets: Puppets) -> None:
    node, door = puppets()
    door.ask("alpha", "linger")
    door.ask("alpha", "deposit", 2, key="something")
    node.stop()


def test_daemons_that_do_not_listen_end_within_three_seconds(puppets: Puppets) -> None:
    node, door = puppets("STUBBORN")
    for n in range(4):
        door.ask(f"stubborn{n}", "linger")
    assert node.stop() < 6.0


def test_ctrl_c_ends_it(puppets: Puppets) -> None:
    node, _ = puppets()
    os.kill(node.pid, signal.SIGINT)
    assert node.wait() == 0


def test_kill_9_of_the_keeper_closes_the_node_in_order(puppets: Puppets) -> None:
    node, door = puppets()
    door.ask("alpha", "linger")
    os.kill(node.pid, signal.SIGKILL)
    assert node.wait() == -signal.SIGKILL
    eventually(lambda: not node.left(), 3.0)


def test_kill_9_of_init_ends_everything(puppets: Puppets) -> None:
    node, door = puppets()
    door.ask("alpha", "linger")
    os.kill(node.init, signal.SIGKILL)
    assert node.wait() == 1
    assert "init was killed by signal 9" in node.output()


def test_a_second_node_finds_what_a_killed_one_left(puppets: Puppets, tmp_path: Path) -> None:
    node, _ = puppets(state=tmp_path / "state")
    init = node.init
    os.kill(node.pid, signal.SIGSTOP)
    os.kill(init, signal.SIGKILL)
    os.kill(node.pid, signal.SIGKILL)
    assert node.wait() == -signal.SIGKILL
    eventually(lambda: not node.processes_left())
    assert (node.state / "control").exists()
    second, door = puppets(state=tmp_path / "state")
    assert door.ask("alpha", "collect") == {"deposits": []}
    second.stop()
