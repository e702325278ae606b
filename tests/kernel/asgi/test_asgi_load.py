"""Programs that can't be loaded: the error says what to change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import sys
sys.modules["uvloop"] = None  # without the load profile it makes an io_uring, which is refused
from fildes.runtime import asgi
try:
    asgi.load({"service": "t", "entry": sys.argv[1], "paths": [sys.argv[2]]})
except BaseException as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("shop:app", ""),
        ("shop:nested.app", ""),
        ("shop:ap", "did you mean 'app'?"),
        ("shop:value", "can't be called"),
        ("shopp:app", "did you mean 'shop'?"),
        ("other:app", "the release has broken, lacks, shop"),
        ("shop", 'expected "module:attribute"'),
        ("../shop:app", 'expected "module:attribute"'),
        ("broken:app", "SyntaxError"),
        ("lacks:app", "ModuleNotFoundError No module named 'nowhere'"),
    ],
)
def test_errors(tmp_path: Path, entry: str, said: str) -> None:
    (tmp_path / "shop.py").write_text(
        "value = 1\nasync def app(scope, receive, send): ...\nclass nested:\n    app = app\n"
    )
    (tmp_path / "broken.py").write_text("def\n")
    (tmp_path / "lacks.py").write_text("import nowhere\n")
    done = subprocess.run([sys.executable, "-c", SCRIPT, entry, tmp_path], capture_output=True, text=True, check=True)
    assert said in done.stdout
    assert bool(said) == bool(done.stdout)


def test_the_programs_own_wsproto(make_stage: Any) -> None:
    """Ours is a private copy: the program may import another version."""
    stage = make_stage()
    code = (
        "import sys; from fildes.runtime import websocket; print(websocket.bring());"
        "print([n for n in sys.modules if n.split('.')[0] in ('wsproto', 'h11')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["True", "[]"]
    assert stage.loaded == "loaded 1"
