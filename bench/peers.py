"""The servers that we are compared with, each as its documentation says it runs best here: one worker."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.stand import Missing

APPS = Path(__file__).parent / "apps"
BIN = Path(sys.executable).parent


class Served(NamedTuple):
    """Where it answers, and the processes whose families are charged for it."""

    url: str
    pids: tuple[int, ...]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int, cwd: Path | None = None) -> Iterator[int]:
    """Start a server, wait until it accepts on `port`, yield its pid, and end it."""
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 15
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with status {process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not listen on {port}")
            time.sleep(0.02)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def uvicorn(app: str) -> Iterator[Served]:
    port = free_port()
    command = [str(BIN / "uvicorn"), "main:app", "--port", str(port), "--no-access-log", "--log-level", "error"]
    with running([*command, "--loop", "uvloop", "--http", "httptools"], port, APPS / app) as pid:
        yield Served(f"http://127.0.0.1:{port}/", (pid,))


@contextlib.contextmanager
def granian(app: str) -> Iterator[Served]:
    port = free_port()
    command = [str(BIN / "granian"), "--interface", "asgi", "--port", str(port), "--loop", "uvloop", "main:app"]
    with running([*command, "--no-ws", "--log-level", "error"], port, APPS / app) as pid:
        yield Served(f"http://127.0.0.1:{port}/", (pid,))


@contextlib.contextmanager
def gunicorn(app: str, worker: str) -> Iterator[Served]:
    """`worker`: sync, gthread or gevent. The sync one closes after each answer, whatever the client asks for."""
    port = free_port()
    command = [
        str(BIN / "gunicorn"),
        "main:app",
        "--bind",
        f"127.0.0.1:{port}",
        "--workers",
        "1",
        "--no-control-socket",
    ]
    command += ["--worker-class", worker, "--log-level", "error", "--keep-alive", "60"]
    command += ["--threads", "8"] if worker == "gthread" else []
    with running(command, port, APPS / app) as pid:
        yield Served(f"http://127.0.0.1:{port}/", (pid,))


NGINX = """
worker_processes 1; daemon off; pid {tmp}/pid; error_log {tmp}/error.log crit; {user}
events {{ worker_connections 4096; multi_accept on; }}
http {{
  access_log off; tcp_nodelay on; tcp_nopush off; keepalive_requests 1000000; keepalive_timeout 60;
  open_file_cache max=1000 inactive=60s; open_file_cache_valid 60s;
  client_body_temp_path {tmp}/b; proxy_temp_path {tmp}/p; fastcgi_temp_path {tmp}/f; uwsgi_temp_path {tmp}/u;
  scgi_temp_path {tmp}/s;
  {body}
}}
"""


@contextlib.contextmanager
def nginx(body: str, port: int) -> Iterator[int]:
    """nginx with one worker; `body` is what stands inside http { }."""
    with tempfile.TemporaryDirectory() as tmp:
        os.chmod(tmp, 0o755)
        user = "user root;" if os.geteuid() == 0 else ""
        Path(tmp, "nginx.conf").write_text(NGINX.format(tmp=tmp, body=body, user=user))
        binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if binary is None:
            raise Missing("nginx is not installed; on Debian: apt-get install nginx-light")
        with running([binary, "-p", tmp, "-c", f"{tmp}/nginx.conf"], port) as pid:
            yield pid


@contextlib.contextmanager
def nginx_to_uvicorn(app: str) -> Iterator[Served]:
    """As a platform has it: nginx in front, connections to the upstream kept."""
    with uvicorn(app) as (upstream, upstream_pids):
        port = free_port()
        host = upstream.removeprefix("http://").rstrip("/")
        body = f"""
          upstream app {{ server {host}; keepalive 128; keepalive_requests 1000000; }}
          server {{ listen 127.0.0.1:{port} reuseport; location / {{
            proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
          }} }}"""
        with nginx(body, port) as pid:
            yield Served(f"http://127.0.0.1:{port}/", (pid, *upstream_pids))


@contextlib.contextmanager
def nginx_static(root: Path, *, sendfile: bool) -> Iterator[Served]:
    port = free_port()
    how = f"sendfile {'on' if sendfile else 'off'}; output_buffers 1 128k;"
    body = f"{how} types {{ text/plain txt; }} server {{ listen 127.0.0.1:{port} reuseport; root {root}; }}"
    with nginx(body, port) as pid:
        yield Served(f"http://127.0.0.1:{port}/", (pid,))
