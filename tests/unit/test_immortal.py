"""Immortal objects: where the interpreter is known they are, elsewhere nothing happens; what is used, works on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fildes.runtime import immortal

SOURCE = Path(immortal.__file__).parents[2]
KNOWN = (3, 12) <= sys.version_info[:2] <= (3, 13) and getattr(sys, "_is_gil_enabled", lambda: True)()

# Everything ends by os._exit: an immortal heap can't be finalised.
_BEGINNING = """
import asyncio, collections, dataclasses, decimal, functools, gc, itertools, json, logging, os, re, sqlite3, sys
import weakref
from fildes.runtime import immortal

class Plain:
    def __init__(self, value): self.value = value

@dataclasses.dataclass(slots=True)
class Slotted:
    value: object

def numbers():
    kept = object()
    yield sys.getrefcount(kept)
    yield sys.getrefcount(kept)

held = [Plain([1, 2]), Slotted("a name"), {"k": (1, "v")}, "text of its own", b"bytes of its own", 1 << 70, 2.5]
running = numbers(); next(running)
code = Plain.__init__.__code__
made = immortal.make()
"""

_CHANGES = """
pairs = zip([1], [2]); enumeration = enumerate("ab"); text = "t" * 30 + str(made); octets = bytearray(b"x" * 100)
again = immortal.make()
for _ in range(3):
    assert [list(pairs), list(enumeration)] is not None
    text += "more"; octets += b"more"; held.append(Plain(text)); held[2][text] = octets
    held[0].value.extend(range(10000)); held[0].value.clear(); held[0].other = held[1]; held[1].value = Plain(1)
    assert re.fullmatch("(t+).*", text) and json.loads(json.dumps({"a": [text]}))["a"] == [text]
    functools.lru_cache(len)(text); sys.intern(text + "!"); collections.OrderedDict(held[2]).popitem()
    logging.getLogger("a.b").warning("%s", held[3]); decimal.Decimal("1.5") + 2
    list(itertools.product("ab", repeat=2)); sqlite3.connect(":memory:").execute("select 1").fetchall()
    weakref.ref(held[0])(); type("Late", (Plain,), {})(1)
    asyncio.run(asyncio.sleep(0)); exec("def late(): return held[0]")
    gc.collect()
print("alive", again)
sys.stdout.flush()
os._exit(0)
"""


def _run(text: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{text}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_known_where_it_was_tried() -> None:
    assert immortal.known() == KNOWN


@pytest.mark.skipif(not KNOWN, reason="nothing is made immortal on this interpreter")
def test_everything_but_what_runs() -> None:
    said = _run(
        _BEGINNING
        + """
immortal_now = {n: sys.getrefcount(o) > 1 << 31 for n, o in [
    ("list", held), ("instance", held[0]), ("its value", held[0].value), ("slot", held[1].value),
    ("tuple", held[2]["k"]), ("str", held[3]), ("bytes", held[4]), ("int", held[5]), ("float", held[6]),
    ("function", numbers), ("code", code), ("names", code.co_names), ("class", Plain), ("module", json),
    ("its function", json.loads.__code__)]}
print([n for n, yes in immortal_now.items() if not yes])
print(sys.getrefcount(running) < 10, next(running) > 1 << 31, sys.getrefcount(object()) < 10, made > 5000)
sys.stdout.flush()
os._exit(0)
"""
    )
    assert said == "[]\nTrue True True True\n"


def test_what_is_immortal_works_on() -> None:
    assert _run(_BEGINNING + _CHANGES).startswith("alive ")


@pytest.mark.skipif(not KNOWN, reason="counts are written on this interpreter")
def test_using_them_writes_nothing() -> None:
    """A child that walks over what its parent made copies next to no page."""
    text = """
import os, resource, sys, gc
from fildes.runtime import immortal
held = [str(n) * 40 for n in range(50_000)]
def walk():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for one in held:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def in_child():
    pid = os.fork()
    if pid == 0:
        os._exit(min(walk() // 10, 250))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) * 10
walk(); before = in_child(); immortal.make(); walk(); print(before, in_child())
sys.stdout.flush()
os._exit(0)
"""
    before, after = map(int, _run(text).split())
    assert before > 1000
    assert after < 100


def test_an_unknown_interpreter_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(immortal.sys, "version_info", (3, 99, 0))
    assert not immortal.known()
    assert immortal.make() == 0
