"""Fildes as a unit of systemd on Debian 12, by docs/installing.md: what the page says, a guest does, line by line.

In order, on one machine: each test takes it as the one before left it.
"""

from __future__ import annotations

import json
import shlex

import pytest

from .conftest import blocks, commands, run
from .guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

UNIT = "/sys/fs/cgroup/system.slice/fildes.service"
CURL = "curl --silent --show-error --max-time 200"


def curl(guest: Guest, url: str, *words: str) -> str:
    return guest.ok(f"{CURL} {' '.join(words)} {shlex.quote(url)}", timeout=220)


def status(guest: Guest, url: str, *words: str) -> str:
    return curl(guest, url, "--output /dev/null --write-out '%{http_code}'", *words)


def shown(guest: Guest, name: str) -> str:
    return guest.ok(f"systemctl show --property={name} --value fildes").strip()


def release(guest: Guest, service: str) -> str:
    """The cgroup of its current release."""
    listed = json.loads(run(guest, "fildes ps --json"))
    [found] = [row for row in listed["services"] if row["service"] == service]
    return f"{UNIT}/fildes-*/services/release-{found['release']}"


def test_this_is_what_it_is_for(machine: Guest) -> None:
    assert machine.ok("uname -r").startswith("6.1.")
    assert "systemd 252" in machine.ok("systemctl --version")
    controllers = machine.ok("cat /sys/fs/cgroup/cgroup.controllers").split()
    assert {"cpu", "memory", "pids"} <= set(controllers)
    assert machine.run("grep -q cgroup /proc/filesystems && ! grep -q ' cgroup ' /proc/mounts").status == 0


def test_installed_as_the_page_says(guest: Guest) -> None:
    checks = json.loads(run(guest, "fildes doctor --json"))
    assert checks["works"]
    without = {check["name"] for check in checks["checks"] if not check["ok"]}
    assert without == {"Python", "Landlock", "SCM_PIDFD", "SO_PASSRIGHTS"}  # "four things"
    assert shown(guest, "StatusText") == "serving on http://127.0.0.1:8080"
    # Nothing in the unit's own cgroup, and nothing in a cgroup that gives controllers on.
    assert guest.ok(f"cat {UNIT}/cgroup.procs") == ""
    assert set(guest.ok(f"cat {UNIT}/cgroup.subtree_control").split()) == {"cpu", "memory", "pids"}
    assert shown(guest, "MainPID") in guest.ok(f"cat {UNIT}/fildes-own/cgroup.procs").split()


def test_the_limits_of_a_manifest_are_the_kernels(guest: Guest) -> None:
    run(guest, "fildes publish tests/vm/greedy")
    greedy = "http://greedy.localhost:8080"
    assert curl(guest, greedy) == "hello"
    here = release(guest, "greedy")
    limits = guest.ok(f"cd $(ls -d {here}/instance-* | head -1) && cat pids.max cpu.max memory.max memory.swap.max")
    assert limits.split() == ["24", "50000", "100000", str(96 << 20), "0"]
    assert 1 <= int(curl(guest, f"{greedy}/tasks?100")) < 24
    throttled = f"grep -h nr_throttled {here}/cpu.stat"
    before = int(guest.ok(throttled).split()[1])
    curl(guest, f"{greedy}/cpu?3")
    assert int(guest.ok(throttled).split()[1]) > before
    assert status(guest, f"{greedy}/memory?200") == "502"
    assert "it was killed because it used more memory than [limits] memory allows" in run(guest, "fildes ps")
    assert curl(guest, greedy) == "hello"
    assert shown(guest, "ActiveState") == "active"
    assert shown(guest, "NRestarts") == "0"
    assert curl(guest, f"{greedy}/disk?1") == "all of it"  # a file system in a file: loop devices, mounts, mke2fs
    assert "No space left" in curl(guest, f"{greedy}/disk?40")


def test_freeze_and_thaw(guest: Guest) -> None:
    greedy = "http://greedy.localhost:8080"
    assert curl(guest, greedy) == "hello"
    run(guest, "fildes freeze greedy")
    frozen = f"cat {release(guest, 'greedy')}/instance-*/cgroup.events | grep -c 'frozen 1'"
    assert int(guest.ok(frozen)) >= 1
    assert guest.run(f"{CURL} --max-time 2 {greedy}").status != 0
    run(guest, "fildes thaw greedy")
    assert curl(guest, greedy) == "hello"


def test_the_cgroup_tests_of_this_repository(guest: Guest) -> None:
    """On a real cgroup v2, in a unit that is delegated."""
    guest.ok("/opt/fildes/bin/pip install --quiet pytest pytest-timeout hypothesis", timeout=300)
    printed = guest.ok(
        "systemd-run --quiet --pipe --wait --property=Delegate=yes --property=WorkingDirectory=/root/fildes "
        "/opt/fildes/bin/python3 -m pytest -p no:cacheprovider tests/kernel/test_cgroups.py",
        timeout=300,
    )
    assert "skipped" not in printed
    assert " passed" in printed


def test_killed_it_is_started_again(guest: Guest) -> None:
    before = shown(guest, "MainPID")
    guest.ok(f"kill -9 {before}")
    guest.until(f"test $(systemctl show --property=NRestarts --value fildes) = 1 && {CURL} --fail site.localhost:8080")
    assert shown(guest, "MainPID") != before
    guest.until("systemctl is-active fildes")
    assert status(guest, "http://guestbook.localhost:8080/") == "200"


def test_a_new_version_in_place(guest: Guest) -> None:
    before = shown(guest, "MainPID")
    *install, reload = commands("A new version")
    for command in install:
        run(guest, command)
    curl(guest, "http://guestbook.localhost:8080/")
    instance = f"cat {release(guest, 'guestbook')}/instance-*/cgroup.procs"
    served_by = guest.ok(instance)
    run(guest, reload)
    guest.until("test $(systemctl show --property=SubState --value fildes) = running")
    assert "upgraded: every daemon runs the new code" in guest.ok("journalctl -u fildes -o cat --no-pager -n 10")
    assert shown(guest, "MainPID") == before
    assert set(served_by.split()) <= set(guest.ok(instance).split())
    assert status(guest, "http://guestbook.localhost:8080/") == "200"


def test_behind_nginx(guest: Guest) -> None:
    guest.ok(
        "mkdir -p /etc/ssl/fildes && cd /etc/ssl/fildes && openssl req -x509 -newkey ec -pkeyopt "
        "ec_paramgen_curve:P-256 -nodes -keyout privkey.pem -out fullchain.pem -days 2 -subj '/CN=*.example.org' "
        "-addext 'subjectAltName=DNS:*.example.org'"
    )
    for command in commands("TLS"):
        if not command.startswith(("map ", "server ")):
            run(guest, command)
    [*_, nginx] = blocks("TLS")
    guest.ok(f"cat >/etc/nginx/conf.d/fildes.conf <<'END'\n{chr(10).join(nginx)}\nEND\nsystemctl start nginx")
    guest.ok("cp -r /root/fildes/examples/site /root/own")
    guest.ok("sed -i 's/localhost/example.org/; s/name = .*/name = \"own\"/' /root/own/fildes.toml")
    run(guest, "fildes publish /root/own")
    words = "--cacert /etc/ssl/fildes/fullchain.pem --resolve site.example.org:443:127.0.0.1"
    assert status(guest, "https://site.example.org/", words) == "200"


def test_backup(guest: Guest) -> None:
    for command in commands("Backup"):
        run(guest, command)
    assert guest.ok("stat -c %a /var/backups/fildes/*.backup").split() == ["600"]
    assert "fildes-backup.timer" in guest.ok("systemctl list-timers")
    run(guest, "fildes restore /var/backups/fildes/*.backup --key /etc/fildes/backup.key --state /root/restored")
    guest.ok("rm -r /root/restored")


def test_an_ordinary_user(guest: Guest) -> None:
    """Limits hold for her too."""
    [[linger], hers] = blocks("A node of an ordinary user")
    guest.ok(linger)
    guest.ok("cp -r /root/fildes /home/anna/fildes && chown -R anna: /home/anna")
    guest.until("systemctl is-active user@$(id -u anna)")
    script = "\n".join(["set -eu", "cd ~/fildes", *hers])
    anna = "runuser -u anna -- env HOME=/home/anna XDG_RUNTIME_DIR=/run/user/$(id -u anna) bash -c "
    guest.ok(anna + shlex.quote(script), timeout=300)
    unit = f"{UNIT.rsplit('/', 2)[0]}/user.slice/user-*.slice/user@*.service/app.slice/fildes.service"
    assert set(guest.ok(f"cat {unit}/cgroup.subtree_control").split()) == {"cpu", "memory", "pids"}
    assert guest.ok(f"cat {unit}/cgroup.procs") == ""
    assert "memory" in guest.ok(f"cat {unit}/fildes-[0-9a-f]*/services/cgroup.controllers")


def test_stop_leaves_nothing(guest: Guest) -> None:
    guest.ok("systemctl stop fildes")
    assert shown(guest, "Result") == "success"
    assert guest.run(f"test -e {UNIT}").status == 1
    uids = "[ $(id -u $(stat -c %u /proc/$p 2>/dev/null) 2>/dev/null || stat -c %u /proc/$p) -ge 1900000000 ]"
    assert (
        guest.ok(f"for p in $(ls /proc | grep -E '^[0-9]+$'); do {uids} 2>/dev/null && cat /proc/$p/comm; done; true")
        == ""
    )
    assert guest.ok("grep -c fildes /proc/mounts; losetup --all; true").split() == ["0"]
    assert guest.ok("ls /var/lib/fildes").split().count("control") == 0


def test_a_reboot_brings_everything_back(guest: Guest) -> None:
    guest.reboot()
    guest.until("systemctl is-active fildes", timeout=120)
    assert status(guest, "http://guestbook.localhost:8080/") == "200"
    assert status(guest, "http://site.localhost:8080/") == "200"
    guest.until(f"{CURL} --fail --output /dev/null http://site.localhost:8090/", timeout=120)
    assert curl(guest, "http://greedy.localhost:8080/") == "hello"


def test_removed_as_the_page_says(guest: Guest) -> None:
    for command in commands("Removing it"):
        run(guest, command)
    assert guest.ok("ls -d /var/lib/fildes /opt/fildes 2>/dev/null; ls /etc/systemd/system/fildes*.service; true") in (
        "",
        "ls: cannot access '/etc/systemd/system/fildes*.service': No such file or directory\n",
    )
