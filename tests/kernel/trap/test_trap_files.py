"""Files of the release without a file system: what programs and libraries read long after they were loaded."""

from __future__ import annotations

import os
import sqlite3
from typing import Any

import pytest


def test_a_file_and_its_directory_are_as_they_were_packed(instance: Any) -> None:
    (instance.app / "templates").mkdir()
    (instance.app / "templates" / "page.html").write_text("<p>hello</p>" * 300)
    for number in range(40):
        (instance.app / "templates" / f"part{number}.txt").write_text(str(number))
    os.utime(instance.app / "templates" / "page.html", (5, 1_600_000_000))
    seen = instance.run("""
        import json, os
        path = "/app/templates/page.html"
        with open(path) as file:
            text, by_fd = file.read(), os.fstat(file.fileno())
        by_path, by_link = os.stat(path), os.lstat(path)
        fields = ("st_ino", "st_dev", "st_mode", "st_size", "st_mtime", "st_nlink", "st_uid", "st_blocks")
        folder = os.open("/app/templates", os.O_RDONLY | os.O_DIRECTORY)
        inside = os.open("page.html", os.O_RDONLY, dir_fd=folder)
        os.chdir("templates")
        print(json.dumps({
            "text": text,
            "agree": [getattr(by_fd, f) == getattr(by_path, f) == getattr(by_link, f) for f in fields],
            "size": by_fd.st_size, "mtime": by_path.st_mtime, "mode": oct(by_path.st_mode),
            "list": sorted(os.listdir("/app/templates")),
            "list_by_fd": sorted(os.listdir(folder)),
            "scan": sorted(
                (e.name, e.is_file(), e.inode() == os.stat(e.path).st_ino) for e in os.scandir("/app/templates")
            ),
            "relative": os.read(inside, 12).decode(),
            "cwd": os.getcwd(),
            "walk": sorted(os.path.join(w, f) for w, _, fs in os.walk("/app") for f in fs),
            "real": os.path.realpath("page.html"),
            "up": os.path.samefile("../templates/./page.html", "//app//templates/page.html"),
        }))
    """).json()
    assert seen["text"] == "<p>hello</p>" * 300
    assert all(seen["agree"])
    assert (seen["size"], seen["mtime"], seen["mode"]) == (3600, 1_600_000_000, "0o100644")
    names = sorted(os.listdir(instance.app / "templates"))
    assert seen["list"] == seen["list_by_fd"] == names
    assert seen["scan"] == [[name, True, True] for name in names]
    assert (seen["relative"], seen["cwd"], seen["real"]) == (
        "<p>hello</p>",
        "/app/templates",
        "/app/templates/page.html",
    )
    assert seen["walk"] == [f"/app/templates/{name}" for name in names]
    assert seen["up"]


def test_modules_are_imported_late_pure_and_compiled(instance: Any) -> None:
    package = instance.app / "late"
    package.mkdir()
    (package / "__init__.py").write_text("from . import inner\n")
    (package / "inner.py").write_text("def f():\n    raise ValueError('here')\n")
    (package / "data.txt").write_text("data of the package")
    info = instance.app / "late-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
    seen = instance.run("""
        import json, traceback
        import late, html.parser, decimal, statistics, xml.dom.minidom, email.mime.text
        import importlib.metadata, importlib.resources
        try:
            late.inner.f()
        except ValueError:
            text = traceback.format_exc()
        print(json.dumps({
            "cached": late.inner.__cached__,
            "source in the traceback": "raise ValueError('here')" in text,
            "resource": importlib.resources.files("late").joinpath("data.txt").read_text(),
            "version": importlib.metadata.version("late"),
            "decimal": type(decimal.Decimal(1).as_tuple).__name__,
            "fast": decimal.__name__,
            "xml": xml.dom.minidom.parseString("<a><b/></a>").documentElement.tagName,
        }))
    """).json()
    assert seen["cached"].startswith("/app/late/__pycache__/inner.")
    assert seen["source in the traceback"]
    assert (seen["resource"], seen["version"], seen["xml"]) == ("data of the package", "1.0", "a")


def test_libraries_of_c_read_from_the_pack(instance: Any) -> None:
    with sqlite3.connect(instance.app / "data.db") as database:
        database.executescript("create table t(x); insert into t values (1), (2), (3)")
    database.close()
    instance.random = True  # OpenSSL makes keys for tickets
    seen = instance.run("""
        import json, sqlite3, ssl, zoneinfo, datetime
        read_only = sqlite3.connect("/app/data.db")
        total = read_only.execute("select sum(x) from t").fetchone()[0]
        try:
            read_only.execute("insert into t values (4)")
            wrote = "wrote"
        except sqlite3.OperationalError as error:
            wrote = str(error)
        memory = sqlite3.connect("/tmp/new.db")
        with memory:
            memory.execute("create table t(x)")
            memory.executemany("insert into t values (?)", [(n,) for n in range(1000)])
        again = sqlite3.connect("/tmp/new.db")
        zone = zoneinfo.ZoneInfo("Europe/Berlin")
        print(json.dumps({
            "total": total, "wrote": wrote,
            "tmp": again.execute("select sum(x) from t").fetchone()[0],
            "cas": ssl.create_default_context().cert_store_stats()["x509_ca"],
            "zone": datetime.datetime(2024, 7, 1, tzinfo=zone).utcoffset().total_seconds(),
            "mime": __import__("mimetypes").guess_type("a.js")[0],
        }))
    """).json()
    assert (seen["total"], seen["tmp"], seen["zone"]) == (6, sum(range(1000)), 7200)
    assert "readonly" in seen["wrote"]
    assert seen["cas"] > 50
    assert seen["mime"] in ("text/javascript", "application/javascript")


def test_what_is_not_there_says_which_grant_would_help(instance: Any) -> None:
    (instance.app / "file.txt").write_text("x")
    seen = instance.run("""
        import json, os
        def error(function, *arguments):
            try:
                return str(function(*arguments))
            except OSError as error:
                return f"{error.errno} {error}"
        print(json.dumps({
            "outside": error(open, "/var/log/x.log"),
            "inside": error(open, "/app/missing.txt"),
            "write": error(open, "/app/file.txt", "w"),
            "create": error(open, "/app/new.txt", "x"),
            "create nowhere": error(open, "/app/nowhere/new.txt", "w"),
            "exists": error(open, "/app/file.txt", "x"),
            "through a file": error(os.stat, "/app/file.txt/x"),
            "a file as a directory": error(os.stat, "/app/file.txt/"),
            "list a file": error(os.listdir, "/app/file.txt"),
            "open a directory": error(open, "/app", "w"),
            "remove": error(os.remove, "/app/file.txt"),
            "make": error(os.mkdir, "/app/dir"),
            "rename": error(os.rename, "/app/file.txt", "/tmp/x"),
            "link": error(os.symlink, "/app/file.txt", "/tmp/x"),
            "readlink": error(os.readlink, "/app/file.txt"),
            "access": [os.access("/app/file.txt", m) for m in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)],
            "proc": error(os.listdir, "/proc/self/fd"),
        }))
    """).json()
    assert (
        seen["outside"].startswith("2 ") and "[grants.files]" in seen["outside"] and "/var/log/x.log" in seen["outside"]
    )
    assert seen["inside"].startswith("2 ") and "grants" not in seen["inside"]
    assert seen["write"].startswith("30 ") and "/tmp" in seen["write"]
    assert seen["create"].startswith("30 ")
    starts = {key: value.split()[0] for key, value in seen.items() if isinstance(value, str)}
    assert starts == starts | {
        "create nowhere": "2",
        "exists": "17",
        "through a file": "20",
        "a file as a directory": "20",
        "list a file": "20",
        "open a directory": "21",
        "remove": "30",
        "make": "30",
        "rename": "18",
        "link": "1",
        "readlink": "22",
        "proc": "2",
    }
    assert seen["access"] == [True, True, False, False]


def test_a_descriptor_says_what_it_is_after_dup_close_and_reuse(instance: Any) -> None:
    (instance.app / "one.txt").write_text("1" * 100)
    (instance.app / "two.txt").write_text("2" * 100)
    (instance.app / "empty.txt").write_text("")
    seen = instance.run("""
        import json, os, socket, fcntl
        ino = {name: os.stat(f"/app/{name}.txt").st_ino for name in ("one", "two", "empty")}
        one, two = (os.open(f"/app/{name}.txt", os.O_RDONLY) for name in ("one", "two"))
        copy, high = os.dup(one), fcntl.fcntl(two, fcntl.F_DUPFD_CLOEXEC, 100)
        answers = {
            "dup": os.fstat(copy).st_ino == ino["one"],
            "F_DUPFD": os.fstat(high).st_ino == ino["two"],
        }
        os.dup2(two, copy)
        answers["dup2"] = os.fstat(copy).st_ino == ino["two"]
        os.close(one)
        a, b = socket.socketpair()
        answers["reused"] = a.fileno() == one
        answers["a socket"] = oct(os.fstat(one).st_mode)
        a.close()
        read, write = os.pipe()
        answers["reused by a pipe"] = read == one
        answers["a pipe"] = oct(os.fstat(read).st_mode)
        os.close(read)
        memory = os.memfd_create("x")
        os.write(memory, b"1" * 100)
        answers["reused by a memfd"] = memory == one
        answers["a memfd"] = os.fstat(memory).st_ino not in ino.values() and os.fstat(memory).st_size
        os.close(memory)
        empty = os.open("/app/empty.txt", os.O_RDONLY)
        answers["empty"] = os.fstat(empty).st_ino == ino["empty"] and os.fstat(empty).st_size == 0
        os.lseek(high, 50, os.SEEK_SET)
        answers["size after seek"] = os.fstat(high).st_size
        try:
            os.fstat(999)
        except OSError as error:
            answers["closed"] = error.errno
        null = os.open("/dev/null", os.O_RDWR)
        answers["null"] = oct(os.fstat(null).st_mode) + oct(os.stat("/dev/null").st_mode)
        os.write(null, b"gone")
        try:
            os.write(high, b"x")
        except OSError as error:
            answers["sealed"] = error.errno
        print(json.dumps(answers))
    """).json()
    assert seen == {
        "dup": True,
        "F_DUPFD": True,
        "dup2": True,
        "reused": True,
        "a socket": "0o140777",
        "reused by a pipe": True,
        "a pipe": "0o10600",
        "reused by a memfd": True,
        "a memfd": 100,
        "empty": True,
        "size after seek": 100,
        "closed": 9,
        "null": "0o201060o20666",
        "sealed": 1,
    } | {"null": seen["null"]}
    assert seen["null"].count("0o20666") == 2


def test_hostile_paths_end_in_an_errno(instance: Any) -> None:
    (instance.app / "file.txt").write_text("x")
    seen = instance.run(r"""
        import ctypes, json, os
        libc = ctypes.CDLL(None, use_errno=True)
        def openat(path, fd=-100, flags=0):
            result = libc.syscall(257 if os.uname().machine == "x86_64" else 56, fd, path, flags, 0)
            return ctypes.get_errno() if result < 0 else "open"
        page = ctypes.create_string_buffer(8192)
        edge = (ctypes.addressof(page) + 4095) & ~4095
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
        two = libc.mmap(None, 8192, 3, 0x22, -1, 0)
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        libc.munmap(two + 4096, 4096)
        ctypes.memmove(two, b"/a" * 2048, 4096)
        runs_off = openat(ctypes.c_void_p(two + 3000))
        ctypes.memmove(two + 4096 - 14, b"/app/file.txt\0", 14)
        fd = os.open("/app/file.txt", os.O_RDONLY)
        print(json.dumps({
            "null": openat(None),
            "low": openat(ctypes.c_void_p(8)),
            "kernel": openat(ctypes.c_void_p(2**63 + 8)),
            "runs off the page": runs_off,
            "ends at the page": openat(ctypes.c_void_p(two + 4096 - 14)),
            "empty": openat(b""),
            "long": openat(b"/app" + b"/x" * 5000),
            "long name": openat(b"/app/" + b"y" * 256),
            "slashes": openat(b"/" * 4000),
            "more slashes": openat(b"/" * 9000),
            "up": openat(b"/../../../app/file.txt"),
            "up from nowhere": openat(b"/app/nowhere/../file.txt"),
            "up from a file": openat(b"/app/file.txt/../file.txt"),
            "not utf-8": openat(b"/app/\xff\xfe"),
            "not open": openat(b"x", 999),
            "not a directory": openat(b"x", fd),
            "absolute with a bad fd": openat(b"/app/file.txt", 999),
        }))
    """).json()
    assert seen == {
        "null": 14,
        "low": 14,
        "kernel": 14,
        "runs off the page": 14,
        "ends at the page": "open",
        "empty": 2,
        "long": 36,
        "long name": 36,
        "slashes": "open",
        "more slashes": 36,
        "up": "open",
        "up from nowhere": 2,
        "up from a file": 20,
        "not utf-8": 2,
        "not open": 9,
        "not a directory": 20,
        "absolute with a bad fd": "open",
    }


def test_threads_open_list_and_look_at_once(instance: Any) -> None:
    for number in range(50):
        (instance.app / f"f{number}.txt").write_text(f"{number} " * (number * 50 + 1))
    seen = instance.run("""
        import json, os, threading, time, tempfile
        wrong, rounds = [], [0]
        deadline = time.monotonic() + 2
        def work(seed):
            n = seed
            while time.monotonic() < deadline:
                n = (n * 31 + 7) % 50
                with open(f"/app/f{n}.txt") as file:
                    text, info = file.read(), os.fstat(file.fileno())
                if text != f"{n} " * (n * 50 + 1) or info.st_ino != os.stat(f"/app/f{n}.txt").st_ino:
                    wrong.append(n)
                if n % 7 == 0 and len(os.listdir("/app")) != 50:
                    wrong.append("list")
                if n % 5 == 0:
                    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
                        file.write(b"x" * n)
                        file.flush()
                        with open(file.name, "rb") as again:
                            if again.read() != b"x" * n or os.stat(file.name).st_size != n:
                                wrong.append("tmp")
                rounds[0] += 1
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        print(json.dumps({"wrong": wrong[:5], "rounds": rounds[0], "left": os.listdir("/tmp")}))
    """).json()
    assert seen["wrong"] == []
    assert seen["left"] == []
    assert seen["rounds"] > 100


@pytest.mark.parametrize("no_vdso", [True, False], ids=["no vDSO", "vDSO"])
def test_with_and_without_the_vdso(instance: Any, no_vdso: bool) -> None:
    """The clock that is refused is refused where it is a call; where it is not, nothing else breaks."""
    instance.no_vdso = no_vdso
    seen = instance.run("""
        import json, time, os
        a = time.monotonic(); time.sleep(0.1); b = time.monotonic()
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        spec = (ctypes.c_long * 2)()
        print(json.dumps([b - a, libc.clock_gettime(0, spec), len(os.listdir("/"))]))
    """).json()
    assert 0.09 < seen[0] < 1
    assert seen[1] == (-1 if no_vdso else 0)


def test_the_root_holds_both_packs_and_tmp(instance: Any) -> None:
    (instance.app / "x").write_text("")
    assert {"app", "fildes", "etc", "usr", "tmp"} <= set(
        instance.run("""
        import json, os
        print(json.dumps(os.listdir("/")))
    """).json()
    )


def test_with_the_files_grant_the_kernel_answers(instance: Any, tmp_path: Any) -> None:
    instance.profile = "serve-files"
    (tmp_path / "outside.txt").write_text("by the kernel")
    seen = instance.run(f"""
        import json, os
        try:
            open("/nowhere/at/all")
        except OSError as error:
            text = str(error)
        path = {str(tmp_path / "outside.txt")!r}
        print(json.dumps([open(path).read(), os.stat(path).st_size, os.path.exists("/app"), text]))
    """).json()
    assert seen == ["by the kernel", 13, False, "[Errno 2] No such file or directory: '/nowhere/at/all'"]
