"""Manifests that can't be: each is refused with the file, the line and what to write instead, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fildes.testing import Node, write_program

PLAIN = 'name = "victim"\nruntime = "asgi"\nentry = "main:app"\nhosts = ["victim.localhost"]\n'

BROKEN = {
    "syntax": (PLAIN + "[limits\n", ["fildes.toml:5"]),
    "no text at all": ("\0\0\0", ["fildes.toml"]),
    "type": (PLAIN + "[limits]\ntasks = true\n", ["fildes.toml:6", "limits.tasks"]),
    "size": (PLAIN + '[limits]\nmemory = "64 apples"\n', ["fildes.toml:6", "64MiB", "apples"]),
    "unknown key": (PLAIN.replace("entry", "entyr"), ["fildes.toml:3", 'did you mean "entry"']),
    "unknown table": (PLAIN + "[limit]\nmemory = 1\n", ["fildes.toml:5", 'did you mean "limits"']),
    "unknown runtime": (PLAIN.replace('"asgi"', '"asgl"'), ["fildes.toml:2", "asgi"]),
    "unknown kind": (PLAIN + "[grants.cloack]\n", ["fildes.toml:5", "clock"]),
    "name": (PLAIN.replace('"victim"', '"Vic tim"'), ["fildes.toml:1", '"vic-tim"']),
    "host taken": (PLAIN.replace("victim.localhost", "holder.localhost"), ["fildes.toml:4", "holder"]),
    "host outside the policy": (PLAIN.replace("victim.localhost", "bank.example"), ["fildes.toml:4", "bank.example"]),
    "no such service": (PLAIN + '[grants.db]\nkind = "connect"\nto = "nobody"\n', ["fildes.toml:7", "nobody"]),
    "a service that does not offer itself": (
        PLAIN + '[grants.db]\nkind = "connect"\nto = "holder"\n',
        ["fildes.toml:7", '[offers] to = ["victim"]'],
    ),
    "more than the owner may give": (PLAIN + '[limits]\nmemory = "900GiB"\n', ["fildes.toml:6", "limits.memory"]),
    "a secret that is not set": (PLAIN + '[grants.key]\nkind = "secret"\n', ["fildes.toml:5", "fildes secret set"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def victim(house: Node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service that runs, whose next release is refused again and again."""
    above = tmp_path_factory.mktemp("manifests")
    house.fildes("publish", str(write_program(above, "holder")))
    folder = write_program(above, "victim")
    house.fildes("publish", str(folder))
    return folder


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_manifest_is_refused_and_changes_nothing(house: Node, victim: Path, case: str) -> None:
    text, words = BROKEN[case]
    releases = house.fildes("releases", "victim", "--json").stdout
    (victim / "fildes.toml").write_text(text)
    done = house.fildes("publish", str(victim), check=False)
    assert done.returncode == 1
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stderr
    assert house.fildes("releases", "victim", "--json").stdout == releases
    assert house.request("/", host="victim.localhost").body == b"ok"


def test_another_owner_s_service_and_host(house: Node, victim: Path) -> None:
    (victim / "fildes.toml").write_text(PLAIN)
    done = house.fildes("publish", str(victim), "--owner", "mallory", check=False)
    assert done.returncode == 1 and "another owner" in done.stderr
    (victim / "fildes.toml").write_text(PLAIN.replace('"victim"', '"thief"'))
    done = house.fildes("publish", str(victim), "--owner", "mallory", check=False)
    assert done.returncode == 1 and "victim.localhost" in done.stderr
    assert "thief" not in {s["service"] for s in json.loads(house.fildes("ps", "--json").stdout)["services"]}
    assert house.request("/", host="victim.localhost").body == b"ok"
