"""Limits bind on the real kernel, nothing outlives them, and nothing is left in the hierarchies."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from fildes.kernel import cgroup_v2, cgroups
from fildes.kernel.cgroups import Cgroup, Hierarchy, Limits
from fildes.kernel.fds import Fd
from fildes.testing import forked

MIB = 1 << 20


@pytest.fixture(scope="module")
def hierarchy() -> Hierarchy:
    found = cgroups.detect()
    if found is None:
        pytest.skip("no cgroup hierarchy is writable for this user")
    return found


@pytest.fixture
def node(hierarchy: Hierarchy) -> Iterator[Cgroup]:
    cgroup = hierarchy.make(f"fildes-test-{os.getpid()}")
    try:
        yield cgroup
    finally:
        cgroup.kill()
        cgroup.remove(5)
        assert not cgroup.exists()


def inside(cgroup: Cgroup, function, **options) -> forked.Child:
    """`function()` in a child that is in `cgroup` before it begins."""
    entrances = cgroup.entrances()

    def enter_and_run() -> object:
        cgroups.enter(fd.fileno() for fd in entrances)
        for fd in entrances:
            fd.take()  # closed with the child
        return function()

    child = forked.start(enter_and_run, keep={fd.fileno() for fd in entrances}, **options)
    for fd in entrances:
        fd.close()
    return child


def hold(mebibytes: int) -> int:
    return len(bytearray(mebibytes * MIB))


def sleeper() -> None:
    signal.pause()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_memory_is_limited_and_the_kill_is_counted(node: Cgroup) -> None:
    release = node.child("release", Limits(memory=128 * MIB))
    instance = release.child("instance", Limits(memory=32 * MIB))
    assert inside(instance, lambda: hold(8)).result() == 8 * MIB
    assert release.oom_kills() == 0
    with pytest.raises(forked.Ended) as ended:
        inside(instance, lambda: hold(64)).result()
    assert ended.value.status == -signal.SIGKILL
    assert instance.oom_kills() == release.oom_kills() == 1
    assert instance.usage()["memory_peak"] <= 32 * MIB
    instance.remove()
    assert release.oom_kills() == 1  # a removed child still counts


def test_a_child_is_bound_by_its_parent(node: Cgroup) -> None:
    release = node.child("release", Limits(memory=32 * MIB))
    instance = release.child("instance", Limits(memory=256 * MIB))
    with pytest.raises(forked.Ended) as ended:
        inside(instance, lambda: hold(64)).result()
    assert ended.value.status == -signal.SIGKILL
    assert release.oom_kills() == 1


def test_anonymous_files_count_as_memory(node: Cgroup) -> None:
    instance = node.child("instance", Limits(memory=32 * MIB))

    def fill() -> None:
        with Fd(os.memfd_create("fill")) as file:
            for _ in range(64):
                os.write(file.fileno(), bytes(MIB))

    with pytest.raises(forked.Ended):
        inside(instance, fill).result()
    assert instance.oom_kills() == 1


def test_tasks_are_limited(node: Cgroup) -> None:
    def fork_until_refused() -> tuple[int, int]:
        pids: list[int] = []
        try:
            while len(pids) < 50:
                pid = os.fork()
                if pid == 0:
                    signal.pause()
                pids.append(pid)
            error = 0
        except OSError as refused:
            error = refused.errno
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return len(pids), error

    instance = node.child("instance", Limits(tasks=10))
    assert inside(instance, fork_until_refused).result() == (9, errno.EAGAIN)


def test_cpu_is_limited(node: Cgroup) -> None:
    def spin() -> float:
        began, end = time.process_time(), time.monotonic() + 0.6
        while time.monotonic() < end:
            pass
        return (time.process_time() - began) / 0.6

    assert inside(node.child("instance", Limits(cpu=0.2)), spin).result() < 0.35


def test_limits_can_be_changed(node: Cgroup) -> None:
    node.child("instance", Limits(memory=64 * MIB, cpu=0.5, tasks=4))
    node.child("instance", Limits(memory=256 * MIB, cpu=1.5, tasks=40))
    assert inside(node.child("instance", Limits()), lambda: hold(128)).result() == 128 * MIB
    node.child("instance", Limits(memory=32 * MIB, cpu=0.1, tasks=2))
    with pytest.raises(forked.Ended):
        inside(node.child("instance"), lambda: hold(64)).result()


def test_attach_procs_kill_remove(node: Cgroup) -> None:
    release = node.child("release", Limits(memory=64 * MIB, cpu=0.5, tasks=64))
    instance = release.child("instance", Limits(memory=32 * MIB, cpu=0.5, tasks=16))
    child = forked.start(sleeper)
    instance.attach(child.pid)
    assert instance.procs() == release.procs() == [child.pid]
    assert release.usage()["tasks"] == 1
    release.kill()
    release.remove()
    assert not release.exists()
    with pytest.raises(forked.Ended) as ended:
        child.result()
    assert ended.value.status == -signal.SIGKILL


def test_kill_outruns_those_that_fork(node: Cgroup) -> None:
    def breed() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        born = 0
        while True:
            try:
                pid = os.fork()
            except BlockingIOError:
                continue
            born += 1
            if pid == 0 and born % 2:
                os._exit(0)  # makes room for others, so that there are new pids all the time

    instance = node.child("instance", Limits(tasks=50))
    child = inside(instance, breed)
    wait_for(lambda: len(instance.procs()) >= 20)
    instance.kill()
    instance.remove(5)
    assert not instance.exists()
    with pytest.raises(forked.Ended):
        child.result()


def test_what_runs_is_not_removed(node: Cgroup) -> None:
    instance = node.child("instance")
    child = inside(instance, sleeper)
    try:
        wait_for(lambda: len(instance.procs()) == 1)
        with pytest.raises(OSError, match="busy"):
            instance.remove(0)
    finally:
        os.close(child.pipe)
        child.kill()
    instance.remove()


def test_freeze_and_thaw(node: Cgroup) -> None:
    reader, writer = os.pipe()
    with Fd(reader) as ticks:

        def tick() -> None:
            while True:
                os.write(writer, b".")
                os.sched_yield()

        instance = node.child("instance")
        entrances = instance.entrances()

        def enter_and_tick() -> None:
            cgroups.enter(fd.fileno() for fd in entrances)
            tick()

        child = forked.start(enter_and_tick, keep={writer, *(fd.fileno() for fd in entrances)})
        os.close(writer)
        for fd in entrances:
            fd.close()
        try:
            assert os.read(ticks.fileno(), 1)
            instance.freeze()
            os.set_blocking(ticks.fileno(), False)
            drain(ticks.fileno())
            with pytest.raises(BlockingIOError):
                os.read(ticks.fileno(), 1)
            instance.thaw()
            os.set_blocking(ticks.fileno(), True)
            assert os.read(ticks.fileno(), 1)
        finally:
            os.close(child.pipe)
            child.kill()


def drain(fd: int) -> None:
    try:
        while os.read(fd, 65536):
            pass
    except BlockingIOError:
        return


def test_what_a_killed_node_left_is_replaced(hierarchy: Hierarchy, node: Cgroup) -> None:
    child = inside(node.child("services").child("release"), sleeper)
    wait_for(lambda: len(node.procs()) == 1)
    again = hierarchy.make(node.path)
    assert again.procs() == []
    with pytest.raises(FileNotFoundError):
        hierarchy.open(f"{node.path}/services")
    with pytest.raises(forked.Ended):
        child.result()


def test_found_again_from_inside(hierarchy: Hierarchy, node: Cgroup) -> None:
    """A daemon that is in the node's tree opens the same tree as init did from outside of it."""
    expected = hierarchy.directories(node.path)

    def from_inside() -> list[str]:
        found = cgroups.detect()
        found.open(f"{node.path}/daemons")
        return found.directories(node.path)

    daemons = node.child("daemons")
    assert inside(daemons.child("orchestrator"), from_inside).result() == expected
    with pytest.raises(FileNotFoundError):
        hierarchy.open(f"{node.path}/nobody")
    with pytest.raises(ValueError, match="fildes-"):
        hierarchy.open("memory.slice")
    with pytest.raises(ValueError, match="fildes-"):
        hierarchy.make("fildes-x/../..")


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("/", ""),
        ("/system.slice/fildes.service", "/system.slice/fildes.service"),
        ("/system.slice/fildes.service/fildes-own", "/system.slice/fildes.service"),
        ("/system.slice/fildes.service/fildes-1f-2/daemons/bus", "/system.slice/fildes.service"),
        (
            "/user.slice/app.slice/fildes-anna.service/fildes-1f-2/services/x",
            "/user.slice/app.slice/fildes-anna.service",
        ),
        ("/fildes-1f-2/fildes-own", ""),
    ],
)
def test_a_nodes_tree_lies_where_the_node_was_started(own: str, expected: str) -> None:
    assert cgroups.place(own) == expected


def test_a_gone_process_is_not_attached(node: Cgroup) -> None:
    child = forked.start(lambda: None)
    child.result()
    with pytest.raises(ProcessLookupError):
        node.attach(child.pid)


# --- v2, as far as this machine has it: the structure, whatever controllers there are


@pytest.fixture
def unified() -> Iterator[tuple[Cgroup, frozenset[str]]]:
    mount = next((mount for mount in cgroups.mounts() if mount.type == "cgroup2"), None)
    if mount is None or not os.access(mount.point, os.W_OK):
        pytest.skip("no writable cgroup2 is mounted")
    controllers = frozenset(cgroups.read(mount.point, "cgroup.controllers").split()[:1])
    given = set(cgroups.read(mount.point, "cgroup.subtree_control").split())
    cgroup = cgroup_v2.V2(mount.point, controllers)
    node = cgroup.make(f"fildes-test-{os.getpid()}")
    try:
        if not controllers <= given:
            cgroup_v2._give_controllers(mount.point, controllers)
        yield node, controllers
    finally:
        node.kill()
        node.remove(5)
        for name in controllers - given:
            cgroups.write(mount.point, "cgroup.subtree_control", f"-{name}")
        assert not node.exists()


def test_v2_processes_give_way_to_children(unified: tuple[Cgroup, frozenset[str]]) -> None:
    """A cgroup that limits its children holds no process itself: the zygote moves into a leaf."""
    node, controllers = unified
    if not controllers:
        pytest.skip("cgroup2 has no controllers here")
    zygote = forked.start(sleeper)
    try:
        node.attach(zygote.pid)
        instance = node.child("instance")
        assert node.procs() == [zygote.pid]
        other = inside(instance, sleeper)
        try:
            late = forked.start(sleeper)
            try:
                node.attach(late.pid)
                wait_for(lambda: len(node.procs()) == 3)
                assert sorted(node.procs()) == sorted([zygote.pid, late.pid, other.pid])
                assert instance.procs() == [other.pid]
            finally:
                os.close(late.pipe)
                late.kill()
        finally:
            os.close(other.pipe)
            other.kill()
    finally:
        os.close(zygote.pipe)
        zygote.kill()


def test_v2_kill_freeze_usage(unified: tuple[Cgroup, frozenset[str]]) -> None:
    node, _ = unified
    child = forked.start(sleeper)
    instance = node.child("instance")
    instance.attach(child.pid)
    instance.freeze()
    instance.thaw()
    assert "cpu" in instance.usage()
    assert instance.oom_kills() == 0
    node.kill()
    instance.remove()
    with pytest.raises(forked.Ended) as ended:
        child.result()
    assert ended.value.status == -signal.SIGKILL


def test_processes_out_of_sight_are_not_mistaken_for_ourselves(unified: tuple[Cgroup, frozenset[str]]) -> None:
    """From another PID namespace the kernel shows them as 0: signalling that would end the caller's own group."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    from fildes.kernel import namespaces

    node, _ = unified
    sleeping = forked.start(sleeper)
    node.attach(sleeping.pid)

    def look() -> list[int]:
        namespaces.unshare(namespaces.CLONE_NEWPID)
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.setsid()
            raw = cgroups.read(node._hierarchy.directories(node.path)[0], "cgroup.procs")
            killed = cgroups.signal_all(node._hierarchy.directories(node.path)[0])
            os.write(writer, bytes([int(raw), killed, len(node.procs())]))
            os._exit(0)
        os.wait()
        return list(os.read(reader, 10))

    try:
        assert forked.run(look) == [0, 0, 0]
    finally:
        os.close(sleeping.pipe)
        sleeping.kill()
