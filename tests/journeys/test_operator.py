"""What an operator does from publish to rm, on a real node, by the CLI alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fildes.testing import Node, eventually

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    print("asked for", scope["path"], flush=True)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": ANSWER})
"""


def folder(path: Path, answer: str, **more: str) -> Path:
    path.mkdir(exist_ok=True)
    (path / "fildes.toml").write_text(
        'name = "shop"\nruntime = "asgi"\nentry = "main:app"\nhosts = ["shop.localhost"]\n[grants.clock]\n'
    )
    (path / "main.py").write_text(f"ANSWER = {answer.encode()!r}\n{APP}")
    for name, content in more.items():
        (path / name.replace("_", ".")).write_text(content)
    return path


def asked(node: Node, *words: str) -> Any:
    return json.loads(node.fildes(*words, "--json").stdout)


def test_from_publish_to_rm(node: Node, tmp_path: Path) -> None:
    shop = folder(tmp_path / "shop", "one")
    printed = node.fildes("publish", str(shop)).stdout.splitlines()
    assert [line.split()[0] for line in printed[:5]] == ["upload", "unpack", "manifest", "bundle", "pack"]
    assert all(line.endswith((" ms", " s")) for line in printed[:5])
    assert printed[-1].startswith("http://shop.localhost:")
    assert node.request("/x", host="shop.localhost").body == b"one"

    again = asked(node, "publish", str(shop))
    assert again["unchanged"] and again["urls"] == [printed[-1]]

    folder(shop, "two")
    second = asked(node, "publish", str(shop))
    assert not second["unchanged"] and second["phases"]["pack"] > 0 and second["phases"]["warm"] > 0
    assert node.request("/y", host="shop.localhost").body == b"two"

    listed = asked(node, "releases", "shop")["releases"]
    assert [one["state"] for one in listed] == ["current", "old"] and listed[0]["release"] == second["release"]
    assert "asked for /y" in node.fildes("logs", "shop").stdout

    assert asked(node, "rollback", "shop")["release"] == listed[1]["release"]
    eventually(lambda: node.request("/", host="shop.localhost").body == b"one")

    assert asked(node, "rm", "shop") == {"service": "shop", "releases": 2, "kept": 0}
    eventually(lambda: node.request("/", host="shop.localhost").status == 404)
    assert asked(node, "ps")["services"] == []


def test_what_runs(node: Node, tmp_path: Path) -> None:
    node.fildes("publish", str(folder(tmp_path / "shop", "one")))
    node.request("/", host="shop.localhost")
    found = asked(node, "ps")
    [service] = found["services"]
    [instance] = service["instances"]
    assert (service["service"], service["owner"], service["state"]) == ("shop", "local", "running")
    assert {daemon["name"]: daemon["pid"] for daemon in found["daemons"]} == node.daemons()
    assert os.readlink(f"/proc/{instance['pid']}/ns/pid") != os.readlink("/proc/self/ns/pid")
    assert "shop" in node.fildes("ps", "--all").stdout

    caps = asked(node, "caps", "shop")
    assert [grant["name"] for grant in caps["grants"]] == ["clock"]
    table = next(process for process in caps["processes"] if process["name"] == f"instance {instance['id']}")
    assert table["pid"] == instance["pid"]
    census = {int(number) for number in os.listdir(f"/proc/{table['pid']}/fd")}
    assert {entry["fd"] for entry in table["fds"]} == census
    assert [entry for entry in table["fds"] if not entry["why"]] == [], "every descriptor has a reason"
    assert "grant clock" in {entry["why"] for entry in table["fds"]}

    assert asked(node, "stop", "shop")["instances"] == 1
    eventually(lambda: asked(node, "ps", "shop")["services"][0]["instances"] == [])
    assert node.request("/", host="shop.localhost").status == 200, "the next request starts it again"


def test_secrets_come_by_standard_input(node: Node, tmp_path: Path) -> None:
    shop = folder(tmp_path / "shop", "one")
    with (shop / "fildes.toml").open("a") as file:
        file.write("[grants.key]\nkind = 'secret'\n")
    refused = node.fildes("publish", str(shop), check=False)
    assert refused.returncode == 1 and "fildes secret set shop key" in refused.stderr

    command = [sys.executable, "-m", "fildes.cli", "secret", "set", "shop", "key"]
    environment = os.environ | {"FILDES_STATE": str(node.state)}
    subprocess.run(command, input=b"hush\n", env=environment, check=True, timeout=30, capture_output=True)
    assert asked(node, "secret", "list", "shop") == {"names": ["key"]}
    node.fildes("publish", str(shop))
    node.fildes("secret", "rm", "shop", "key")
    assert asked(node, "secret", "list", "shop") == {"names": []}


def test_policy_and_refusals(node: Node, tmp_path: Path) -> None:
    assert asked(node, "policy", "anna", "suffixes=*.anna.example", "services=1")["suffixes"] == ["*.anna.example"]
    shop = folder(tmp_path / "shop", "one")
    refused = node.fildes("publish", str(shop), "--owner", "anna", check=False)
    assert refused.returncode == 1
    assert "fildes.toml:4: " in refused.stderr and "*.anna.example" in refused.stderr
    assert asked(node, "ps")["services"] == []
    assert asked(node, "explain") == {"denials": []}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["logs", "nobody"], "there is no service 'nobody'"),
        (["caps", "nobody"], "there is no service 'nobody'"),
        (["releases", "nobody"], "there is no service 'nobody'"),
        (["rollback", "nobody"], "there is no service 'nobody'"),
        (["stop", "nobody"], "no service 'nobody'"),
        (["rm", "nobody"], "there is no service 'nobody'"),
        (["explain", "--plan", "nobody"], "no service 'nobody'"),
        (["policy", "nonsense=1"], "nonsense"),
        (["publish", "/nowhere/at/all"], "No such file"),
        (["logs", "x", "-n", "-1"], "0 or more"),
    ],
)
def test_every_mistake_gets_a_sentence(shared: Node, words: list[str], said: str) -> None:
    done = shared.fildes(*words, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def shared() -> Any:
    with Node() as node:
        yield node


# --- hard ends


def test_the_cli_is_killed_in_the_middle(node: Node, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.html").write_text("old")
    node.fildes("publish", str(pages), "--name", "pages")
    before = asked(node, "releases", "pages")["releases"]
    (pages / "index.html").write_text("new")
    for number in range(3000):
        (pages / f"{number}.html").write_text("x" * number)
    publishing = subprocess.Popen(
        [sys.executable, "-u", "-m", "fildes.cli", "publish", str(pages), "--name", "pages"],
        stdout=subprocess.PIPE,
        env=os.environ | {"FILDES_STATE": str(node.state)},
    )
    assert publishing.stdout is not None
    with publishing.stdout:
        assert publishing.stdout.readline().startswith(b"upload")
        publishing.send_signal(signal.SIGKILL)
    publishing.wait(10)
    scratch = node.state / "publish"
    eventually(lambda: os.listdir(scratch / "jobs") == [])
    eventually(lambda: [name for name in os.listdir(scratch / "cell") if len(name) == 16] == [])
    # On a busy machine the node may have been faster than the signal: then it is done, and done whole.
    after = asked(node, "releases", "pages")["releases"]
    done = len(after) > len(before)
    assert after[int(done) :] == [one | {"state": "old"} for one in before] if done else after == before
    assert node.request("/", host="pages.localhost").body == (b"new" if done else b"old")


def test_the_publish_process_is_killed_in_the_middle(node: Node, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    for number in range(3000):
        (pages / f"{number}.html").write_text("x" * number)
    (pages / "index.html").write_text("hello")
    publishing = subprocess.Popen(
        [sys.executable, "-u", "-m", "fildes.cli", "publish", str(pages), "--name", "pages"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"FILDES_STATE": str(node.state)},
    )
    assert publishing.stdout is not None
    publishing.stdout.readline()
    node.kill("publish")
    _, said = publishing.communicate(timeout=60)
    # What it had not answered is asked again when it is back: the operator notices a pause, or is told.
    assert publishing.returncode == 0 or said.startswith(b"fildes: ")
    assert b"Traceback" not in said
    node.fildes("publish", str(pages), "--name", "pages")
    assert node.request("/", host="pages.localhost").body == b"hello"
    assert os.listdir(node.state / "publish/jobs") == []
