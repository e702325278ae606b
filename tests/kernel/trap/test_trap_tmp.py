"""/tmp: memory of the instance, with the semantics of files as far as they go (shim/README.md says how far)."""

# ruff: noqa: E501 (programs in strings)

from __future__ import annotations

from typing import Any


def test_tempfile_in_all_its_forms(instance: Any) -> None:
    seen = instance.run("""
        import json, os, tempfile, shutil
        answers = {"dir": tempfile.gettempdir()}
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 100_000)
            file.seek(50_000)
            answers["nameless"] = [len(file.read()), os.fstat(file.fileno()).st_nlink, os.fstat(file.fileno()).st_size]
        with tempfile.NamedTemporaryFile("w+", suffix=".txt") as file:
            file.write("hello")
            file.flush()
            with open(file.name) as again:
                answers["by name"] = again.read()
            answers["position"] = file.tell()
            file.write(" world")
            file.seek(0)
            answers["after"] = file.read()
        with tempfile.TemporaryDirectory() as folder:
            os.makedirs(f"{folder}/a/b")
            for name in "xyz":
                with open(f"{folder}/a/b/{name}", "w") as file:
                    file.write(name)
            shutil.copytree(f"{folder}/a", f"{folder}/c")
            shutil.move(f"{folder}/c/b/x", f"{folder}/moved")
            answers["tree"] = sorted(os.path.relpath(os.path.join(w, f), folder) for w, _, fs in os.walk(folder) for f in fs)
        with tempfile.SpooledTemporaryFile(max_size=10) as file:
            file.write(b"0123456789abcdef")
            file.seek(10)
            answers["spooled"] = file.read().decode()
        handle, path = tempfile.mkstemp()
        os.write(handle, b"raw")
        answers["raw"] = [os.lseek(handle, 0, os.SEEK_SET), os.read(handle, 9).decode(), os.stat(path).st_size]
        os.unlink(path)
        answers["unlinked but open"] = [os.pread(handle, 9, 0).decode(), os.fstat(handle).st_nlink, os.path.exists(path)]
        answers["left"] = os.listdir("/tmp")
        print(json.dumps(answers))
    """).json()
    assert seen == {
        "dir": "/tmp",
        "nameless": [50_000, 0, 100_000],
        "by name": "hello",
        "position": 5,
        "after": "hello world",
        "tree": ["a/b/x", "a/b/y", "a/b/z", "c/b/y", "c/b/z", "moved"],
        "spooled": "abcdef",
        "raw": [0, "raw", 3],
        "unlinked but open": ["raw", 0, False],
        "left": [],
    }


def test_the_calls_answer_as_a_file_system_would(instance: Any) -> None:
    seen = instance.run("""
        import json, os
        def error(function, *arguments):
            try:
                function(*arguments)
                return 0
            except OSError as error:
                return error.errno
        def make(path, flags=0):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o640))
        make("/tmp/f")
        os.mkdir("/tmp/d")
        make("/tmp/d/inner")
        answers = {
            "excl": error(make, "/tmp/f", os.O_EXCL), "no parent": error(make, "/tmp/no/f"), "parent a file": error(make, "/tmp/f/x"),
            "mkdir there": error(os.mkdir, "/tmp/d"), "mkdir root": error(os.mkdir, "/tmp"), "rmdir full": error(os.rmdir, "/tmp/d"),
            "rmdir file": error(os.rmdir, "/tmp/f"), "unlink dir": error(os.unlink, "/tmp/d"), "unlink none": error(os.unlink, "/tmp/x"),
            "rename into itself": error(os.rename, "/tmp/d", "/tmp/d/e"), "rename on full": error(os.rename, "/tmp/f", "/tmp/d"),
            "write a dir": error(os.open, "/tmp/d", os.O_WRONLY), "slash": error(os.open, "/tmp/f/", os.O_RDONLY),
            "directory": error(os.open, "/tmp/f", os.O_DIRECTORY), "link": error(os.link, "/tmp/f", "/tmp/g"),
            "long": error(make, "/tmp/" + "x" * 300), "up": os.path.samefile("/tmp/d/../f", "/tmp/f"),
            "mode": [oct(os.stat("/tmp/f").st_mode), oct(os.stat("/tmp/d").st_mode), oct(os.stat("/tmp").st_mode)],
        }
        before = os.stat("/tmp/d/inner").st_ino
        os.rename("/tmp/d", "/tmp/renamed")
        answers["moved with it"] = os.stat("/tmp/renamed/inner").st_ino == before and not os.path.exists("/tmp/d")
        os.replace("/tmp/renamed/inner", "/tmp/f")
        answers["replaced"] = os.stat("/tmp/f").st_ino == before
        os.truncate("/tmp/f", 1000)
        answers["truncated"] = os.path.getsize("/tmp/f")
        os.chmod("/tmp/f", 0o600)
        os.utime("/tmp/f", (1, 2))
        answers["attributes"] = [oct(os.stat("/tmp/f").st_mode), os.stat("/tmp/f").st_mtime]
        folder = os.open("/tmp/renamed", os.O_RDONLY)
        os.mkdir("below", dir_fd=folder)
        answers["by fd"] = [os.listdir("/tmp/renamed"), os.stat("below", dir_fd=folder).st_ino == os.stat("/tmp/renamed/below").st_ino]
        os.fchdir(folder)
        answers["cwd"] = os.getcwd()
        os.rmdir("below")
        os.chdir("/tmp")
        os.rmdir("renamed")
        answers["entries"] = [(e.name, e.is_file()) for e in os.scandir(".")]
        answers["space"] = os.statvfs("/tmp").f_bsize
        print(json.dumps(answers))
    """).json()
    assert seen == {
        "excl": 17,
        "no parent": 2,
        "parent a file": 20,
        "mkdir there": 17,
        "mkdir root": 17,
        "rmdir full": 39,
        "rmdir file": 20,
        "unlink dir": 21,
        "unlink none": 2,
        "rename into itself": 22,
        "rename on full": 21,
        "write a dir": 21,
        "slash": 20,
        "directory": 20,
        "link": 1,
        "long": 36,
        "up": True,
        "mode": ["0o100640", "0o40777", "0o41777"],
        "moved with it": True,
        "replaced": True,
        "truncated": 1000,
        "attributes": ["0o100600", 2.0],
        "by fd": [["below"], True],
        "cwd": "/tmp/renamed",
        "entries": [["f", True]],
        "space": 4096,
    }


def test_python_files_have_offsets_of_their_own(instance: Any) -> None:
    seen = instance.run("""
        import json
        answers = {}
        writer = open("/tmp/log", "w", buffering=1)
        reader = open("/tmp/log")
        other = open("/tmp/log", "a")
        writer.write("one\\n")
        answers["first"] = reader.readline()
        other.write("two\\n"); other.flush()
        answers["second"] = reader.readline()
        writer.write("six\\n")
        reader.seek(0)
        answers["all"] = reader.read()
        with open("/tmp/log", "r+b") as both:
            both.seek(1)
            both.write(b"N")
            answers["in place"] = both.read(3).decode()
            both.truncate(5)
        with open("/tmp/log", "rb", buffering=0) as raw:
            answers["raw"] = [raw.read().decode(), raw.tell(), raw.seek(-1, 2), raw.read(5).decode(), raw.read(1).decode()]
        for mode in ("r", "x", "rb+", "wx", "q", "rbt"):
            try:
                open("/tmp/none" if mode.startswith("r") else "/tmp/log", mode).close()
                answers[mode] = "opened"
            except (OSError, ValueError) as error:
                answers[mode] = type(error).__name__
        try:
            open("/tmp/log").write("x")
        except OSError as error:
            answers["write to reader"] = type(error).__name__
        text = open("/tmp/log")
        answers["attributes"] = [text.name, text.mode, text.buffer.raw.mode, text.buffer.raw.name]
        print(json.dumps(answers))
    """).json()
    # "six" is written where the writer is: over what another one appended there, as with any file.
    assert seen == {
        "first": "one\n",
        "second": "two\n",
        "all": "one\nsix\n",
        "in place": "e\ns",
        "raw": ["oNe\ns", 5, 4, "s", ""],
        "r": "FileNotFoundError",
        "x": "FileExistsError",
        "rb+": "FileNotFoundError",
        "wx": "ValueError",
        "q": "ValueError",
        "rbt": "ValueError",
        "write to reader": "UnsupportedOperation",
        "attributes": ["/tmp/log", "r", "rb", "/tmp/log"],
    }


def test_many_files_meet_a_limit_and_a_clear_error(instance: Any) -> None:
    seen = instance.run("""
        import errno, json, os
        made = 0
        try:
            while made < 5000:
                os.close(os.open(f"/tmp/{made}", os.O_CREAT | os.O_WRONLY))
                made += 1
        except OSError as error:
            ended = errno.errorcode[error.errno]
        for number in range(made):
            os.unlink(f"/tmp/{number}")
        os.close(os.open("/tmp/again", os.O_CREAT | os.O_WRONLY))
        print(json.dumps([made, ended, os.listdir("/tmp")]))
    """).json()
    assert seen[0] > 200
    assert seen[1] in ("EMFILE", "ENOSPC")
    assert seen[2] == ["again"]


def test_locks_are_granted_on_memory_and_on_nothing_else(instance: Any) -> None:
    seen = instance.run("""
        import fcntl, json, os
        file = open("/tmp/lock", "w")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_EX)
        def error(fd):
            try:
                fcntl.lockf(fd, fcntl.LOCK_SH)
            except OSError as error:
                return error.errno
        print(json.dumps([error(os.open("/dev/null", os.O_RDWR)), error(os.pipe()[0]), error(999)]))
    """).json()
    assert seen == [37, 37, 9]
