"""Django's own commands: migrations before the switch, createsuperuser at a terminal, data out and in by pipes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from fildes.testing import Node

from .conftest import APPS, Curl
from .terminal import Terminal

HOST = "bureau.localhost"


def run(node: Node, *words: str, given: bytes = b"") -> bytes:
    """`fildes run bureau -- python manage.py WORDS`, by pipes: what it prints."""
    command = [sys.executable, "-m", "fildes.cli", "run", "bureau", "--", "python", "manage.py", *words]
    environment = os.environ | {"FILDES_STATE": str(node.state)}
    done = subprocess.run(command, env=environment, input=given, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_a_bureau_from_nothing(town: Node, tmp_path: Path, curl: Curl) -> None:
    folder = tmp_path / "bureau"
    shutil.copytree(APPS / "bureau", folder, ignore=shutil.ignore_patterns("__pycache__"))
    printed = town.fildes("publish", str(folder), timeout=120).stdout
    try:
        assert "Applying auth.0001_initial... OK" in printed and "health" in printed

        with Terminal(town, "run", "bureau", "--", "python", "manage.py", "createsuperuser") as terminal:
            for question, answer in (
                ("Username: ", "anna"),
                ("Email address: ", "anna@example.org"),
                ("Password: ", "short"),
                ("Password (again): ", "short"),
                ("[y/N]: ", "n"),
                ("Password: ", "correct horse"),
                ("Password (again): ", "correct horse"),
            ):
                assert "horse" not in terminal.sees(question), "what is typed into getpass is not shown"
                terminal.types(f"{answer}\r")
            terminal.sees("Superuser created successfully.")
            assert terminal.ends() == 0

        jar = ("-b", str(tmp_path / "jar"), "-c", str(tmp_path / "jar"))
        form = curl(town, HOST, "/admin/login/", *jar).body.decode()
        token = re.search('name="csrfmiddlewaretoken" value="(.*?)"', form)
        assert token is not None
        fields = {"csrfmiddlewaretoken": token[1], "username": "anna", "password": "correct horse"}
        posted = [word for name, value in fields.items() for word in ("--data-urlencode", f"{name}={value}")]
        assert curl(town, HOST, "/admin/login/?next=/admin/", *jar, *posted).status == 302
        assert b"Site administration" in curl(town, HOST, "/admin/", *jar).body

        kept = run(town, "dumpdata", "auth.user")
        assert b'"username": "anna"' in kept
        run(town, "shell", "--command", "from django.contrib.auth.models import User; User.objects.all().delete()")
        assert run(town, "dumpdata", "auth.user").strip() == b"[]"
        assert b"Installed 1 object(s)" in run(town, "loaddata", "--format=json", "-", given=kept)
        assert run(town, "dumpdata", "auth.user") == kept
    finally:
        town.fildes("rm", "bureau", "--data", check=False)
