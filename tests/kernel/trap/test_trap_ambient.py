"""Time, randomness, names, signals: what is granted is answered, what is not says which grant is missing."""

# ruff: noqa: E501 (programs in strings)

from __future__ import annotations

import platform
import signal
import textwrap
from typing import Any

import pytest

BEFORE = (
    "from time import time as captured\nfrom datetime import datetime as Captured\nfrom os import urandom as drawn\n"
)


def test_the_clock_grant_tells_the_time(instance: Any) -> None:
    instance.clock = 1_700_000_000
    instance.before = BEFORE
    seen = instance.run("""
        import ctypes, datetime, json, os, time
        from fildes.runtime import trap
        first = time.time()
        time.sleep(0.05)
        second = time.time()
        libc = ctypes.CDLL(None, use_errno=True)
        pair = (ctypes.c_long * 2)()
        libc.gettimeofday(pair, None)
        print(json.dumps({
            "first": first, "passed": second - first, "captured": captured(), "c": libc.time(None), "day": pair[0],
            "now": datetime.datetime.now(datetime.timezone.utc).timestamp(), "today": str(datetime.date.today()),
            "resolution": time.get_clock_info("time").resolution, "trap": trap.wall_ns() / 1e9,
            "tmp": (open("/tmp/x", "w").close(), os.stat("/tmp/x").st_mtime)[1],
            "coarse": time.clock_gettime(5), "order": time.time_ns() <= time.time_ns(),
        }))
    """).json()
    for key in ("first", "captured", "c", "day", "now", "trap", "tmp", "coarse"):
        assert 1_700_000_000 <= seen[key] < 1_700_000_020, key
    assert 0.04 < seen["passed"] < 2
    assert (seen["today"], seen["resolution"], seen["order"]) == ("2023-11-14", 0.001, True)


def test_without_a_clock_it_says_so(instance: Any) -> None:
    instance.before = BEFORE
    seen = instance.run("""
        import ctypes, datetime, email.utils, json, logging, os, time
        def error(function, *arguments):
            try:
                return f"returned {function(*arguments)}"
            except OSError as error:
                return f"{type(error).__name__} {error}"
        libc = ctypes.CDLL(None, use_errno=True)
        pair = (ctypes.c_long * 2)()
        class Own(datetime.datetime): pass
        print(json.dumps({
            "refused": [error(f) for f in (
                time.time, time.time_ns, time.localtime, time.gmtime, time.ctime, lambda: time.strftime("%Y"),
                datetime.datetime.now, datetime.datetime.utcnow, datetime.datetime.today, datetime.date.today, Captured.now,
                Own.now, lambda: datetime.datetime.now(datetime.timezone.utc), email.utils.formatdate,
            )],
            "captured": error(captured), "cpu": error(time.clock_gettime, 2),
            "c": [libc.clock_gettime(0, pair), libc.gettimeofday(pair, None), libc.time(None)],
            "given": [time.gmtime(0).tm_year, time.strftime("%Y", time.gmtime(86400)), str(datetime.date.fromtimestamp(0))],
            "tmp": (open("/tmp/x", "w").close(), os.stat("/tmp/x").st_mtime)[1],
            "record": logging.LogRecord("a", 1, "p", 1, "m", (), None).created,
        }))
    """).json()
    for text in seen["refused"]:
        assert text.startswith("PermissionError") and "[grants.clock]" in text, text
    assert seen["c"] == [-1, -1, -1]
    assert seen["given"] == [1970, "1970", "1970-01-01"]
    assert seen["tmp"] == 0
    assert 0 <= seen["record"] < 10
    assert "1970" not in seen["captured"]
    assert seen["cpu"].startswith("PermissionError")


def test_the_random_grant_is_drawn_from_and_reseeds(instance: Any) -> None:
    instance.random = True
    instance.before = BEFORE + "import random\nrandom.seed(1)\nexpected = random.Random(1).random()\n"
    seen = instance.run("""
        import ctypes, json, os, random, secrets, uuid
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(40)
        with open("/dev/urandom", "rb") as device:
            read = device.read(8)
        print(json.dumps({
            "length": [len(os.urandom(100)), len(secrets.token_bytes(5)), len(drawn(7)), len(read), len(os.getrandom(9))],
            "c": [libc.getrandom(buffer, 40, 0), libc.getentropy(buffer, 40), libc.getrandom(buffer, 4, 64)],
            "differ": [os.urandom(16) != os.urandom(16), uuid.uuid4() != uuid.uuid4(), random.Random().random() != random.Random().random()],
            "reseeded": random.random() != expected,
        }))
    """).json()
    assert seen["length"] == [100, 5, 7, 8, 9]
    assert seen["c"] == [40, 0, -1]
    assert all(seen["differ"]) and seen["reseeded"]


def test_without_randomness_it_says_so(instance: Any) -> None:
    instance.before = BEFORE + "import random\nrandom.seed(1)\nexpected = random.Random(1).random()\nimport ssl\n"
    seen = instance.run("""
        import ctypes, json, os, random, secrets, tempfile, uuid
        def error(function, *arguments):
            try:
                return f"returned {function(*arguments)}"
            except OSError as error:
                return f"{type(error).__name__} {error}"
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(40)
        print(json.dumps({
            "refused": [error(f) for f in (
                lambda: os.urandom(8), lambda: secrets.token_hex(8), uuid.uuid4, random.Random, random.seed,
                lambda: random.SystemRandom().random(), lambda: open("/dev/urandom"), lambda: os.getrandom(8), secrets.token_urlsafe,
                ssl.create_default_context,
            )],
            "captured": error(drawn, 8),
            "c": [libc.getrandom(buffer, 40, 0), libc.getentropy(buffer, 40)],
            "deterministic": random.random() == expected, "seeded": random.Random(3).random() == random.Random(3).random(),
            "names": len({tempfile.mkstemp()[1] for _ in range(20)}),
        }))
    """).json()
    for text in seen["refused"]:
        assert "Error" in text and "[grants.random]" in text, text
    assert seen["captured"].startswith("PermissionError")
    assert seen["c"] == [-1, -1]
    assert seen["deterministic"] and seen["seeded"] and seen["names"] == 20


def test_secrets_names_and_standard_streams(instance: Any) -> None:
    instance.secrets = {"token": "s3cret", "empty": ""}
    seen = instance.run("""
        import json, os, platform
        answers = {
            "token": open("/run/secrets/token").read(), "empty": open("/run/secrets/empty").read(),
            "size": os.stat("/run/secrets/token").st_size, "none": os.path.exists("/run/secrets/none"),
            "list": sorted(os.listdir("/run/secrets")), "above": os.listdir("/run"), "is": os.path.isdir("/run/secrets"),
            "uname": list(os.uname())[:2], "platform": platform.system(),
        }
        with open("/run/secrets/token") as file:
            answers["same"] = os.fstat(file.fileno()).st_ino == os.stat("/run/secrets/token").st_ino
        try:
            open("/run/secrets/token", "w")
        except OSError as error:
            answers["write"] = error.errno
        with open("/dev/stderr", "w") as file:
            file.write("said")
        print(json.dumps(answers))
    """)
    assert seen.err == "said"
    assert seen.json() == {
        "token": "s3cret",
        "empty": "",
        "size": 6,
        "none": False,
        "list": ["empty", "token"],
        "above": ["secrets"],
        "is": True,
        "uname": ["Linux", "fildes"],
        "platform": "Linux",
        "same": True,
        "write": 30,
    }


def test_the_network_is_refused_with_the_grant(instance: Any) -> None:
    instance.random = True  # urllib makes a TLS context first
    seen = instance.run("""
        import asyncio, json, socket, urllib.request
        def error(function, *arguments):
            try:
                return f"returned {function(*arguments)}"
            except OSError as error:
                return f"{type(error).__name__} {error}"
        pair = socket.socketpair()
        print(json.dumps({
            "refused": [error(f) for f in (
                socket.socket, lambda: socket.create_connection(("127.0.0.1", 1)), lambda: socket.getaddrinfo("example.org", 80),
                lambda: urllib.request.urlopen("http://example.org"),
            )],
            "unix": error(lambda: socket.socket(socket.AF_UNIX)),
            "pair": pair[0].send(b"x"),
        }))
    """).json()
    for text in seen["refused"]:
        assert "[grants.NAME]" in text, text
    assert seen["unix"].startswith("PermissionError")
    assert seen["pair"] == 1


def test_signals_may_be_blocked_and_the_trap_goes_on(instance: Any) -> None:
    """A trapped call while SIGSYS is blocked would end the process."""
    seen = instance.run("""
        import ctypes, json, os, signal, threading
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        listed = os.listdir("/app")
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        after = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        ctypes.CDLL(None).signal(signal.SIGSYS, None)
        threads = [threading.Thread(target=os.listdir, args=("/app",)) for _ in range(5)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        print(json.dumps({
            "sigsys": signal.SIGSYS in blocked, "usr1": signal.SIGUSR1 in blocked, "after": after == before,
            "still": os.listdir("/app") == listed,
        }))
    """).json()
    assert seen == {"sigsys": False, "usr1": True, "after": True, "still": True}


def test_a_profile_line_without_an_answer_ends_in_an_errno(instance: Any) -> None:
    """Each call that the serve profile traps is made with nonsense: the handler answers, nothing crashes."""
    from fildes.kernel.libc import NR
    from fildes.kernel.seccomp import RET_TRAP
    from fildes.sandbox import profile

    serve = profile.load("serve")
    trapped = {
        name: NR[name]
        for name, call in serve.calls.items()
        if name in NR and any(c.action == RET_TRAP for c in call.clauses)
    }
    seen = instance.run(f"""
        import ctypes, json
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        def call(nr, *words):
            result = libc.syscall(nr, *(ctypes.c_long(w) for w in words))
            return ctypes.get_errno() if result == -1 else 0
        answers = {{}}
        for name, nr in {trapped!r}.items():
            answers[name] = [call(nr, -1, -1, -1, -1, -1, -1), call(nr, 8, 8, 8, 8, 8, 8), call(nr, 77777, 0, 0, 0, 0, 0)]
        print(json.dumps(answers))
    """).json()
    assert seen.keys() == trapped.keys()
    allowed = {"uname", "rt_sigprocmask", "rt_sigaction", "umask", "memfd_create", "clock_getres", "gettimeofday"}
    for name, errors in seen.items():
        assert all(errors) or name in allowed, (name, errors)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an instruction of x86_64")
def test_the_time_stamp_counter_is_the_coarse_clock_and_other_faults_are_the_programs(instance: Any) -> None:
    instance.before = """
        import ctypes, faulthandler, mmap
        code = mmap.mmap(-1, 4096, prot=7)
        code.write(bytes.fromhex("0f3148c1e2204809d0c3" "0f01f948c1e2204809d0c3"))
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        rdtsc, rdtscp = ctypes.CFUNCTYPE(ctypes.c_uint64)(address), ctypes.CFUNCTYPE(ctypes.c_uint64)(address + 10)
        early = rdtsc()
        faulthandler.enable()
    """
    program = textwrap.dedent("""
        import json, time
        first = rdtsc()
        time.sleep(0.1)
        second = rdtscp()
        print(json.dumps([first >= early, second - first, abs(second - time.monotonic_ns())]), flush=True)
    """)
    seen = instance.run(program).json()
    assert seen[0]
    assert 50_000_000 <= seen[1] < 2_000_000_000
    assert seen[2] < 1_000_000_000
    died = instance.run(program + "ctypes.string_at(8)\n")
    assert died.status == -signal.SIGSEGV
    assert died.err.count("Segmentation fault") == 1
    assert "program.py" in died.err


def test_event_loops_look_at_the_clock_without_a_trap(instance: Any) -> None:
    instance.clock = 1_700_000_000
    seen = instance.run("""
        import asyncio, ctypes, json, time
        from fildes.runtime import trap
        libc = ctypes.CDLL(None, use_errno=True)
        spec = (ctypes.c_long * 2)()
        async def turns():
            before = trap.answered()
            for _ in range(100):
                await asyncio.sleep(0)
                time.monotonic(), time.time()
            return trap.answered() - before
        traps = asyncio.run(turns())
        number = 228 if ctypes.sizeof(ctypes.c_long) == 8 and __import__("os").uname().machine == "x86_64" else 113
        before, agree = trap.answered(), []
        for clock in (0, 1, 5, 6, 7):
            ours = time.clock_gettime(clock)
            agree.append(libc.syscall(number, clock, spec) == 0 and 0 <= spec[0] + spec[1] / 1e9 - ours < 1)
        errors = []
        for clock in (2, 3, 99):
            try:
                time.clock_gettime(clock)
            except OSError as error:
                errors.append(error.errno)
        print(json.dumps([traps, agree, trap.answered() - before, errors]))
    """).json()
    # CLOCK_MONOTONIC_COARSE itself is let through, so four of the five raw calls are traps.
    assert seen == [0, [True] * 5, 4, [1, 1, 22]]


def test_instances_start_where_the_program_went_while_it_loaded(instance: Any) -> None:
    instance.before = "import os\nos.chdir('/usr')\n"
    assert instance.run("import os; print(os.getcwd(), os.listdir('.'))").out == "/usr ['lib', 'share']\n"
