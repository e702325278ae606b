"""The runtimes wsgi, function and service on a real node, with programs that nobody wrote for it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from fildes.testing import Node, eventually

FORM = {"Content-Type": "application/x-www-form-urlencoded"}

DJANGO = """
import asyncio
from django.conf import settings

settings.configure(
    SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], DEBUG=True, USE_TZ=True,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
)

from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

def index(request):
    return HttpResponse(f"{request.get_host()} {request.GET.get('x', '')} {request.path}")

@csrf_exempt
def form(request):
    return JsonResponse({"name": request.POST["name"], "size": request.FILES["f"].size if request.FILES else 0})

async def later(request):
    await asyncio.sleep(0.01)
    return HttpResponse("later")

def stream(request):
    return StreamingHttpResponse(str(n) for n in range(5))

def fails(request):
    raise RuntimeError("on purpose")

urlpatterns = [path("", index), path("form", form), path("later", later), path("stream", stream), path("fails", fails)]
app = get_wsgi_application()
"""

FLASK = """
from flask import Flask, Response, abort, jsonify, request, send_file
import io

app = Flask(__name__)

@app.get("/")
def index():
    return f"{request.host} {request.args.get('x', '')} {request.script_root}"

@app.post("/form")
def form():
    file = request.files.get("f")
    return jsonify(name=request.form["name"], size=len(file.read()) if file else 0)

@app.get("/later")
async def later():
    return "later"

@app.get("/stream")
def stream():
    return Response((str(n) for n in range(5)), mimetype="text/plain")

@app.get("/fails")
def fails():
    raise RuntimeError("on purpose")
"""

SLOW = """
import threading, time

arrived = threading.Barrier(12)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/meet":
        arrived.wait(10)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]
"""

STEADY = """
import os

def main(caps):
    print("begun", flush=True)
    if caps.wait(0.05) or "CRASH" not in os.environ:
        caps.wait()
        print("told", flush=True)
        return
    raise RuntimeError("it crashed")
"""


def write(above: Path, name: str, runtime: str, source: str, manifest: str = "", requirements: str = "") -> str:
    folder = above / name
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(source)
    hosts = "" if runtime == "service" else f'hosts = ["{name}.localhost", "shared.localhost/{name}"]\n'
    entry = "main" if runtime == "service" else "app"
    (folder / "fildes.toml").write_text(
        f'name = "{name}"\nruntime = "{runtime}"\nentry = "main:{entry}"\n{hosts}{manifest}'
    )
    if requirements:
        (folder / "requirements.txt").write_text(requirements)
    return str(folder)


@pytest.mark.slow
@pytest.mark.skipif("FILDES_OFFLINE" in os.environ, reason="it resolves packages")
@pytest.mark.parametrize(
    ("name", "source", "requirements"), [("django", DJANGO, "django~=5.2"), ("flask", FLASK, "flask[async]~=3.1")]
)
def test_a_framework_unmodified(town: Node, tmp_path: Path, name: str, source: str, requirements: str) -> None:
    grants = "[grants.clock]\n[grants.random]\n"
    town.fildes("publish", write(tmp_path, name, "wsgi", source, grants, requirements), timeout=180)
    host = f"{name}.localhost"
    assert town.request("/?x=1", host=host).body.decode().startswith(f"{host} 1 ")
    assert f"/{name}" in town.request(f"/{name}/", host="shared.localhost").body.decode()
    assert json.loads(town.request("/form", host=host, method="POST", body=b"name=Ada", headers=FORM).body) == {
        "name": "Ada",
        "size": 0,
    }
    parts = (
        b'--X\r\nContent-Disposition: form-data; name="name"\r\n\r\nBob\r\n'
        b'--X\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + bytes(3 << 20) + b"\r\n--X--\r\n"
    )
    kind = {"Content-Type": "multipart/form-data; boundary=X"}
    uploaded = town.request("/form", host=host, method="POST", body=parts, headers=kind)
    assert json.loads(uploaded.body) == {"name": "Bob", "size": 3 << 20}
    assert town.request("/later", host=host).body == b"later"
    assert town.request("/stream", host=host).body == b"01234"
    assert town.request("/fails", host=host).status == 500
    assert town.request("/nowhere", host=host).status == 404
    eventually(lambda: "on purpose" in town.fildes("logs", name).stdout)
    town.fildes("rm", name)


def test_requests_run_at_once(town: Node, tmp_path: Path) -> None:
    """Twelve wait for each other, in one instance, and quick ones are answered meanwhile."""
    town.fildes("publish", write(tmp_path, "slow", "wsgi", SLOW))
    host = "slow.localhost"
    answers: list[bytes] = []

    def meet() -> None:
        answers.append(town.request("/meet", host=host).body)

    threads = [threading.Thread(target=meet) for _ in range(12)]
    for thread in threads[:11]:
        thread.start()
    for _ in range(20):
        assert town.request("/quick", host=host).body == b"/quick"
    threads[11].start()
    for thread in threads:
        thread.join(15)
    assert answers == [b"/meet"] * 12
    town.fildes("rm", "slow")


def test_a_service_runs_without_being_asked_and_is_told_to_stop(town: Node, tmp_path: Path) -> None:
    folder = write(tmp_path, "steady", "service", STEADY)
    town.fildes("publish", folder)
    eventually(lambda: "begun" in town.fildes("logs", "steady").stdout)
    # Another release: the first one is told, and its successor begins.
    write(tmp_path, "steady", "service", STEADY + "\n# changed\n")
    town.fildes("publish", folder)
    eventually(lambda: "told" in town.fildes("logs", "steady").stdout)
    eventually(lambda: town.fildes("logs", "steady").stdout.count("begun") == 2)
    town.fildes("rm", "steady")


def test_a_service_that_crashes_is_started_again_up_to_a_limit(town: Node, tmp_path: Path) -> None:
    town.fildes("publish", write(tmp_path, "shaky", "service", STEADY, '[env]\nCRASH = "1"\n'))
    eventually(lambda: town.fildes("logs", "shaky").stdout.count("it crashed") >= 2, 20)

    def state() -> str:
        services = json.loads(town.fildes("ps", "--json").stdout)["services"]
        return next(str(each["state"]) for each in services if each["service"] == "shaky")

    eventually(lambda: state() == "halted", 60)
    town.fildes("rm", "shaky")


@pytest.mark.parametrize(
    ("runtime", "source", "says"),
    [
        ("wsgi", "app = 3\n", "that is a int, which can't be called"),
        ("function", "def app(): pass\n", "def handle(request)"),
        ("service", "def main(): pass\n", "def main(caps)"),
        ("wsgi", "import nothing_of_the_kind\n", "nothing_of_the_kind"),
    ],
)
def test_what_is_no_program_is_refused_at_publish(
    town: Node, tmp_path: Path, runtime: str, source: str, says: str
) -> None:
    refused = town.fildes("publish", write(tmp_path, "broken", runtime, source), check=False)
    assert refused.returncode != 0
    assert says in refused.stdout + refused.stderr
