"""After its start the publish process, and what it forks, imports nothing: its uid may not even read the library."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = r"""
import io, os, sys, tarfile, tempfile
from fildes.publish import __main__, cell, runner, uv
from fildes.publish.children import _limit
from fildes.publish.names import Rejected
from fildes.publish.scratch import Scratch
from fildes.publish.upload import read_answer, seal, take_in
from fildes.kernel.fds import Fd
from fildes.kernel import memfd
from fildes.pack import writer
from fildes.pack.collect import Source

__main__.load_ahead()

def tar_of(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()

MANIFEST = (
    b'name = "shop"\nruntime = "asgi"\nentry = "main:app"\nhosts = ["\xc3\xbc.localhost"]\n'
    b'[grants.clock]\n[limits]\nmemory = "64MiB"\n'
)
uploads = [
    tar_of(files) for files in (
        {"fildes.toml": MANIFEST, "\xe4" * 90: b"", "requirements.txt": b"\xef\xbb\xbfflask>=3\n"},
        {"fildes.toml": MANIFEST.replace(b"asgi", b"asg")},
        {"fildes.toml": b"\xff"},
        {"fildes.toml": b"a = "},
        {"main.py": b""},
        {"index.html": b""},
        {"../x": b""},
        {"fildes.toml": MANIFEST, "requirements.txt": b"-e .\n"},
        {"fildes.toml": MANIFEST, "requirements.txt": b"\xff"},
    )
]
uploads += [b"no tar", b""]
home = tempfile.mkdtemp()
scratch = Scratch(Fd.open(home, os.O_RDONLY | os.O_DIRECTORY))
imported = []
sys.addaudithook(lambda event, args: imported.append(args[0]) if event == "import" else None)
for number, upload in enumerate(uploads):
    job = scratch.begin(f"{number}")
    with memfd.sealed("tar", upload) as archive, job.new_file("contents") as contents:
        try:
            name = None if number < 5 else "pages"
            value, (index,) = take_in(archive.fileno(), contents.fileno(), name, lambda *_: None)
        except Rejected:
            pass
        else:
            read_answer(value)
            with Fd(index), job.new_file("bundle") as bundle:
                seal(index, contents.fileno(), b"lock", bundle.fileno())
    job.sweep()
scratch.keep_lock("a" * 64, b"x")
scratch.lock_for("a" * 64)
writer.with_bytecode(cell.interpreter(), [Source("/app/a.py", b"x = 1")])
uv.explain("error: failed to fetch `https://u:p@x.example/`: tunnel 403", "requirements.txt")
uv.environment({"urls": ["a", "b"], "ca": "c"}, "http://127.0.0.1:1", "/")
print(sorted(set(imported)))
scratch.close()
os.system(f"rm -r {home}")
"""


def test_nothing_is_imported_after_the_start() -> None:
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
