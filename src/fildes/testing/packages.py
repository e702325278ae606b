"""A package index of one's own on loopback (PEP 503), and wheels to put into it: nothing from outside is needed.

    with Index() as index:
        index.add("greet", "1.0", {"greet.py": "def hello(): return 'hello'"})
        with Node(arguments=["--index", index.url]) as node: …
        index.misbehave("500")         # or silent, slow, cut, lie, altered, 404; "" is well again

The server is a process of its own, which ends with the `with` block or with whoever started it.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from fildes.kernel.process import set_parent_death_signal

FAULTS = ("", "404", "500", "silent", "slow", "cut", "lie", "altered")


def wheel(
    name: str,
    version: str,
    files: Mapping[str, str],
    *,
    requires: Sequence[str] = (),
    extras: Mapping[str, str] | None = None,
    tag: str = "py3-none-any",
) -> tuple[str, bytes]:
    """(file name, bytes) of a pure wheel (PEP 427); the same arguments give the same bytes."""
    normal = name.replace("-", "_")
    info = f"{normal}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {line}" for line in requires]
    for extra, line in (extras or {}).items():
        metadata += [f"Provides-Extra: {extra}", f"Requires-Dist: {line} ; extra == '{extra}'"]
    members = {
        **files,
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: fildes\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = ""
    for path, text in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    members[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in members.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return f"{normal}-{version}-{tag}.whl", out.getvalue()


class Index:
    """An index, stopped until it is entered."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fildes-index-")
        self.folder = Path(self._folder.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/simple"

    def start(self) -> None:
        """Serve, on the same port as before if there was one."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fildes.testing.packages", str(self.folder), str(self._port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: set_parent_death_signal(signal.SIGTERM),  # noqa: PLW1509 - one thread
        )
        if self._process.stdout is None:
            raise OSError("the index has no output")
        with self._process.stdout as said:
            self._port = int(said.readline())

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def add(self, name: str, version: str, files: Mapping[str, str] | None = None, **more: Any) -> str:
        """Put a wheel into the index; its sha256 in hex."""
        file, data = wheel(name, version, {f"{name.replace('-', '_')}.py": ""} if files is None else files, **more)
        (self.folder / file).write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def misbehave(self, fault: str, where: str = "") -> None:
        """From the next request on whose path holds `where`; one of FAULTS."""
        if fault not in FAULTS:
            raise ValueError(f"{fault!r} is none of {FAULTS}")
        (self.folder / "fault").write_text(json.dumps([fault, where]))

    def asked(self) -> list[str]:
        """The paths of the requests so far."""
        try:
            return (self.folder / "asked").read_text().split()
        except FileNotFoundError:
            return []


class _Handler(http.server.BaseHTTPRequestHandler):
    folder: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path  # a proxy's requests are in absolute form
        with open(self.folder / "asked", "a", encoding="ascii") as asked:
            asked.write(f"{path}\n")
        fault = ""
        if (self.folder / "fault").exists():
            fault, where = json.loads((self.folder / "fault").read_text())
            fault = fault if where in path else ""
        if fault in ("404", "500"):
            self._send(int(fault), b"no", "text/plain")
        elif fault == "silent":
            time.sleep(60)  # whoever asks gives up before; the test ends us
        else:
            self._answer(path.strip("/").split("/"), fault)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, parts: list[str], fault: str) -> None:
        if parts[0] == "simple" and len(parts) == 2:
            body = self._page(parts[1], fault)
            self._send(200 if body else 404, body.encode(), "text/html", fault)
        elif parts[0] == "files" and len(parts) == 2 and (self.folder / parts[1]).name.endswith(".whl"):
            data = (self.folder / parts[1]).read_bytes()
            if fault == "altered":  # still a good archive: with a comment at its end (APPNOTE.TXT 4.3.16)
                data = data[:-2] + b"\x01\x00!"
            self._send(200, data, "application/octet-stream", fault)
        else:
            self._send(404, b"no", "text/plain")

    def _page(self, project: str, fault: str) -> str:
        if (self.folder / f"{project}.html").exists():  # links of a test's own
            return (self.folder / f"{project}.html").read_text()
        links = ""
        for file in sorted(self.folder.glob("*.whl")):
            if file.name.split("-")[0].replace("_", "-").lower() == project:
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                if fault == "lie":
                    digest = "0" * 64
                links += f'<a href="/files/{file.name}#sha256={digest}">{file.name}</a>\n'
        return f"<!DOCTYPE html><html><body>{links}</body></html>" if links else ""

    def _send(self, status: int, body: bytes, kind: str, fault: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == "slow":
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.0065)
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are none of ours."""


def serve(folder: str, port: int) -> None:
    """Until it is killed; the port is said on standard output."""
    set_parent_death_signal(signal.SIGKILL)
    _Handler.folder = Path(folder)
    with _Server(("127.0.0.1", port), _Handler) as server:
        os.write(1, f"{server.server_port}\n".encode())
        os.close(1)
        server.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
