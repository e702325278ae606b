"""The short fork: handlers of others run, those for locks alone do not, and in the child everything works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fildes.zygote import forking

SOURCE = Path(forking.__file__).parents[2]
KNOWN = (3, 12) <= sys.version_info[:2] <= (3, 13)

_BEGINNING = f"""
import sys
sys.path.insert(0, {str(SOURCE)!r})
from fildes.zygote import forking
forking.record()
import asyncio, concurrent.futures, logging, os, ssl, threading

def in_child(work):
    reader, writer = os.pipe()
    pid = forking.fork()
    if pid == 0:
        try:
            os.write(writer, repr(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    said = b""
    while piece := os.read(reader, 65536):
        said += piece
    assert os.waitpid(pid, 0)[1] == 0
    return said.decode()
"""


def _run(text: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", _BEGINNING + text],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


def test_handlers_run_in_the_order_of_os_fork() -> None:
    said = _run(
        """
said = []
for name in "ab":
    os.register_at_fork(before=lambda name=name: said.append("before " + name),
                        after_in_parent=lambda name=name: said.append("parent " + name),
                        after_in_child=lambda name=name: said.append("child " + name))
print(in_child(lambda: said), said)
short = list(said); said.clear()
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
print(said == short)
"""
    )
    assert said == (
        "['before b', 'before a', 'child a', 'child b'] ['before b', 'before a', 'parent a', 'parent b']\nTrue\n"
    )


def test_a_handler_that_raises_stops_nothing() -> None:
    said = _run(
        """
def broken():
    raise ValueError("the handler's own trouble")
os.register_at_fork(before=broken)
print(in_child(lambda: "went on"))
"""
    )
    assert "went on" in said
    assert "the handler's own trouble" in said


def test_the_child_is_a_whole_process() -> None:
    said = _run(
        """
logging.basicConfig(format="%(message)s", stream=sys.stdout)

def work():
    pool = concurrent.futures.ThreadPoolExecutor(2)
    other = threading.Thread(target=lambda: done.append(threading.get_native_id() != os.getpid()))
    done = []
    other.start(); other.join()
    async def several():
        return await asyncio.gather(asyncio.to_thread(len, "abc"), asyncio.sleep(0, "slept"))
    with threading.RLock():
        logging.getLogger("x").warning("from the child")
    grandchild = in_child(lambda: "grandchild")
    return [sum(pool.map(len, ["a", "bc"])), done, asyncio.run(several()), threading.current_thread().name,
            grandchild, threading.main_thread() is threading.current_thread()]
print(in_child(work))
"""
    )
    assert "from the child" in said
    assert "[3, [True], [3, 'slept'], 'MainThread', \"'grandchild'\", True]" in said


def test_openssl_tells_its_children_apart() -> None:
    said = _run("ssl.RAND_bytes(16); print(len({in_child(lambda: ssl.RAND_bytes(16)) for _ in range(4)}))")
    assert said == "4\n"


def test_with_threads_it_is_the_plain_fork() -> None:
    said = _run(
        """
import warnings
warnings.simplefilter("ignore")
plain, calls = os.fork, []
os.fork = lambda: calls.append(1) or plain()
print(in_child(lambda: 1), len(calls))
stop = threading.Event()
other = threading.Thread(target=stop.wait); other.start()
print(in_child(lambda: 1), len(calls))
stop.set(); other.join()
"""
    )
    assert said.split() == (["1", "0", "1", "1"] if KNOWN else ["1", "1", "1", "2"])


def test_handlers_that_came_before_it_keep_it_plain() -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-I", "-c"),
            f"import logging, sys; sys.path.insert(0, {str(SOURCE)!r})\n"
            "from fildes.zygote import forking\nforking.record(); print(forking._recorded)",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout == "False\n"


@pytest.mark.skipif(not KNOWN, reason="the plain fork")
def test_a_fork_that_fails_raises() -> None:
    said = _run(
        """
forking._fork = lambda: -1
try:
    forking.fork()
except OSError as error:
    print("raised", str(error).partition("fork: ")[2] != "")
"""
    )
    assert said == "raised True\n"
