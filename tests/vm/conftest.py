"""One guest for all tests: Debian 12 under QEMU, Fildes installed in it as docs/installing.md says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from .guest import Guest, missing

REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / ".vm"
PAGE = REPOSITORY / "docs/installing.md"


def commands(heading: str) -> list[str]:
    """The indented lines of one section of the page, blocks of configuration left out."""
    return [line for block in blocks(heading) if not block[0].endswith("{") for line in block]


def blocks(heading: str) -> list[list[str]]:
    text = PAGE.read_text("utf-8")
    [section] = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)
    found = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    return [[line[4:] for line in block.splitlines()] for block in found]


def wheels(folder: Path) -> None:
    """What pip would fetch in the guest, for its Python: as wheels, and kept."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"], "wheel", "pytest"]
    wanted += ["pytest-timeout", "hypothesis"]
    options = ["--python-version", "3.11", "--only-binary", ":all:", "--implementation", "cp"]
    for machine in ("manylinux_2_17", "manylinux2014", "manylinux_2_28", "manylinux_2_34", "manylinux_2_36"):
        options += ["--platform", f"{machine}_{os.uname().machine}"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    subprocess.run([*pip, *options, *wanted], check=True, timeout=300)


def payload(folder: Path) -> Path:
    """A file system with this working tree and the wheels."""
    tree = folder / "payload"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPOSITORY, check=True, capture_output=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (tree / "fildes" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, tree / "fildes" / name)
    wheels(tree / "wheels")
    image = folder / "payload.ext4"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", str(tree), str(image)], check=True, timeout=60)
    return image


@pytest.fixture(scope="session")
def machine() -> Iterator[Guest]:
    """As it is after its first boot."""
    if lacking := missing():
        pytest.skip(f"for a virtual machine: apt-get install {lacking}")
    if os.uname().machine != "x86_64":
        pytest.skip("the virtual machine is an x86_64")
    image = CACHE / "debian12"
    made = subprocess.run(["sh", "scripts/vm-image.sh", str(image)], cwd=REPOSITORY, timeout=1200, check=False)
    if made.returncode:
        pytest.skip("no image of Debian 12 could be made; the reason is above")
    with (
        tempfile.TemporaryDirectory(prefix="fildes-vm-") as folder,
        Guest(image, Path(folder), payload(Path(folder))) as guest,
    ):
        yield guest


@pytest.fixture(scope="session")
def guest(machine: Guest) -> Guest:
    """With a node that is started at boot and has two services, as the page's first three sections say."""
    machine.ok("cp -r /payload/fildes /root/fildes")
    # No KVM: a program that loads in a second takes a minute here.
    machine.ok(
        "mkdir -p /etc/systemd/system/fildes.service.d && printf '[Service]\\nExecStart=\\nExecStart="
        "/opt/fildes/bin/fildes up --state /var/lib/fildes --load-limit 300 $FILDES_UP\\n'"
        " >/etc/systemd/system/fildes.service.d/slow.conf"
    )
    for heading in ("Installing a node", "The service", "The first service"):
        for command in commands(heading):
            run(machine, command)
    return machine


def run(guest: Guest, command: str) -> str:
    """A line of the page, as root in the checkout."""
    return guest.ok(f"cd /root/fildes && export FILDES_STATE=/var/lib/fildes && {command}", timeout=600)
