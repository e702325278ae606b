"""After its start the publish process, and what it forks, imports nothing: its uid may not even read the library."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = r"""
import io, os, sys, tarfile, tempfile
from fildes.publish import __main__, cell, runner, uv
from fildes.publish.children import _limit
from fildes.publish.lockfile import with_head
from fildes.publish.names import Rejected
from fildes.publish.scratch import Scratch
from fildes.publish.upload import Wish, lock_of, read_answer, read_kept, read_needs, seal, take_in
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
PROJECT = (
    b"[project]\nname = 'a'\nversion = '1.0'\nrequires-python = '>=3.9'\n"
    b"dependencies = ['b>=1; os_name == \"posix\"']\n"
    b"[project.optional-dependencies]\nx = ['c~=1.0']\n[build-system]\nrequires = []\n"
)
LOCK = b'''
version = 1
[[package]]
name = "b"
version = "1.0"
source = { registry = "x" }
wheels = [{ hash = "sha256:%s" }]
[[package]]
name = "a"
source = { virtual = "." }
dependencies = [{ name = "b", marker = 'os_name == "posix"' }]
[package.metadata]
requires-dist = [{ name = "b", specifier = ">=1" }]
''' % (b"0" * 64)
PYLOCK = b'''
lock-version = "1.0"
environments = ["sys_platform == 'linux'"]
[[packages]]
name = "b"
version = "1.0"
marker = "'x' not in extras"
wheels = [{ hashes = { sha256 = "%s" } }]
''' % (b"0" * 64)
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
        {"fildes.toml": MANIFEST + b'extras = ["x"]\n', "pyproject.toml": b"[project]\nname = 'a'\n"},
        {"fildes.toml": MANIFEST.replace(b"[grants", b'extras = ["x"]\n[grants'), "pyproject.toml": PROJECT},
        {"fildes.toml": MANIFEST, "pyproject.toml": PROJECT, "uv.lock": LOCK},
        {"fildes.toml": MANIFEST, "pylock.toml": PYLOCK},
        {"fildes.toml": MANIFEST, "requirements.txt": b"a>=1 ; os_name == 'posix'", "requirements.lock": b"a==2"},
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
            value, (index, needs) = take_in(archive.fileno(), contents.fileno(), Wish(name), lambda *_: None)
        except Rejected:
            pass
        else:
            read_answer(value)
            with Fd(index), Fd(needs), job.new_file("bundle") as bundle, job.new_file("again") as again:
                read_needs(needs)
                lock = with_head(b"a==1 --hash=sha256:" + b"0" * 64, ["a"], "requirements.txt")
                seal(index, contents.fileno(), lock, bundle.fileno())
                with Fd(lock_of(bundle.fileno(), again.fileno())[1][0]) as kept:
                    read_kept(kept.fileno())
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
