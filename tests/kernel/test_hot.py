"""What hot.py and shim/memory.c do to an interpreter: the program goes on as before, and lies differently."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fildes.runtime import hot, immortal

SCRIPT = """
import json, sys
from fildes.runtime import trap
trap.load()
from fildes.runtime import hot, immortal

def outer(n):
    def inner(m):
        return [m + n for _ in range(3) if m]
    return inner

class Thing:
    def __init__(self, value):
        self.value = value
    @classmethod
    def of(cls, value):
        return cls(value)
    @property
    def double(self):
        return self.value * 2

def never():
    return "never"

def fails():
    raise ValueError("on purpose")

kept = outer(1)
ran = []
def life():
    ran.append(outer(2)(3) + kept(1) + [Thing.of(4).double])
before = {f.__name__: id(f.__code__) for f in (outer, never, kept)}
alive = [str(n) for n in range(100_000)]
hot.settle(lambda: [life, fails] if len(sys.argv) > 1 else [life])
print(json.dumps({
    "same": [outer(2)(3), kept(1), Thing.of(4).double, never()],
    "ran": len(ran), "answers": len({repr(one) for one in ran}),
    "moved": [f.__name__ for f in (outer, never, kept) if id(f.__code__) != before[f.__name__]],
    "immortal": sys.getrefcount(alive[5000]) > 1 << 30 and sys.getrefcount(outer.__code__) > 1 << 30,
    "large pages": trap.collapse(),
    "still": alive[99_999],
}), flush=True)
import os
os._exit(0)  # what is immortal is never finalised
"""


def _settled(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(hot.__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_a_program_goes_on_as_before() -> None:
    said = _settled()
    assert said["same"] == [[5, 5, 5], [2, 2, 2], 8, "never"]
    assert said["answers"] == 1 and said["still"] == "99999"


def test_what_fails_is_of_no_consequence() -> None:
    assert _settled("failing")["same"] == [[5, 5, 5], [2, 2, 2], 8, "never"]


@pytest.mark.skipif(not immortal.known(), reason="an interpreter whose objects can't be made immortal")
def test_what_was_practised_was_moved_and_all_is_immortal() -> None:
    said = _settled()
    assert said["moved"] == ["outer", "inner"]
    assert said["ran"] == hot.ROUNDS + 1
    assert said["immortal"]
