"""Where dependencies come from: each kind of file, as it is packed in the end; locks that do not match are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from fildes.daemon.abi import ABI
from fildes.publish import flow
from fildes.testing.packages import Index
from fildes.wire import catalogue
from fildes.wire.publish import Lock, Repack

Refusing = Callable[..., str]
MANIFEST = 'name = "shop"\nruntime = "asgi"\nentry = "wares:app"\nhosts = ["shop.localhost"]\n'
PROJECT = """[project]
name = "Wares"
version = "1.2"
dependencies = ["greet>=1"]
[project.optional-dependencies]
pdf = ["paper"]
all = ["wares[pdf]"]
[project.scripts]
wares = "wares:main"
[build-system]
requires = ["nothing-that-is-there"]
build-backend = "evil.backend"
[tool.setuptools.packages.find]
where = ["src"]
"""


@pytest.fixture(scope="module")
def hashes(shop: Index) -> dict[str, str]:
    return {
        "greet": shop.add("greet", "1.0", {"greet.py": "GREET = 1\n"}, requires=["dep"]),
        "greet2": shop.add("greet", "2.0", {"greet.py": "GREET = 2\n"}, requires=["dep"]),
        "dep": shop.add("dep", "1.0", {"dep.py": ""}),
        "paper": shop.add("paper", "1.0", {"paper.py": ""}),
        "wares": shop.add("clash", "1.0", {"wares/other.py": "", "wares/__init__.py": "raise SystemExit\n"}),
    }


def project(text: str = PROJECT, manifest: str = MANIFEST, **files: str) -> dict[str, str]:
    folder = {"fildes.toml": manifest, "pyproject.toml": text}
    return folder | {"src/wares/__init__.py": "app = None\n", "src/wares/page.html": "<p>", **files}


def test_a_project_in_src(shopper: Any, hashes: dict[str, str]) -> None:
    """Its dependencies, its own code where an installation would have put it; its build backend is never run."""
    shopper.publish(project())
    files = shopper.pack()
    assert files["/deps/greet.py"] == b"GREET = 2\n" and "/deps/dep.py" in files and "/deps/paper.py" not in files
    assert files["/deps/wares/__init__.py"] == files["/app/src/wares/__init__.py"] == b"app = None\n"
    assert files["/deps/wares/page.html"] == b"<p>"
    assert any(path.startswith("/deps/wares/__pycache__/__init__.") for path in files)
    assert b"Version: 1.2\n" in files["/deps/wares-1.2.dist-info/METADATA"]
    assert files["/deps/wares-1.2.dist-info/entry_points.txt"] == b"[console_scripts]\nwares = wares:main\n"
    shopper.publish(project(manifest='extras = ["all"]\n' + MANIFEST))
    assert "/deps/paper.py" in shopper.pack()


def test_the_project_s_own_code_comes_first(shopper: Any, hashes: dict[str, str]) -> None:
    shopper.publish(project(PROJECT.replace("greet>=1", "clash")))
    files = shopper.pack()
    assert files["/deps/wares/__init__.py"] == b"app = None\n" and "/deps/wares/other.py" in files


def uv_lock(
    hashes: dict[str, str], specifier: str = ">=1", source: str = '{ registry = "https://index.example/simple" }'
) -> str:
    return f"""version = 1
revision = 3
requires-python = ">=3.11"

[[package]]
name = "dep"
version = "1.0"
source = {{ registry = "https://index.example/simple" }}
wheels = [{{ url = "https://index.example/dep-1.0-py3-none-any.whl", hash = "sha256:{hashes["dep"]}" }}]

[[package]]
name = "greet"
version = "1.0"
source = {source}
dependencies = [
    {{ name = "dep", marker = "sys_platform == 'linux'" }},
    {{ name = "paper", marker = "os_name == 'nt'" }},
]
wheels = [{{ url = "https://evil.example/greet.whl", hash = "sha256:{hashes["greet"]}" }}]

[[package]]
name = "paper"
version = "1.0"
source = {{ registry = "https://index.example/simple" }}
wheels = [{{ url = "https://index.example/paper.whl", hash = "sha256:{hashes["paper"]}" }}]

[[package]]
name = "wares"
version = "1.2"
source = {{ editable = "." }}
dependencies = [{{ name = "greet" }}]
[package.optional-dependencies]
all = [{{ name = "paper" }}]
pdf = [{{ name = "paper" }}]
[package.metadata]
requires-dist = [
    {{ name = "greet", specifier = "{specifier}" }},
    {{ name = "paper", marker = "extra == 'pdf'" }},
    {{ name = "wares", extras = ["pdf"], marker = "extra == 'all'" }},
]
"""


def test_uv_lock(shopper: Any, hashes: dict[str, str], refused: Refusing) -> None:
    shopper.publish(project(**{"uv.lock": uv_lock(hashes)}))
    files = shopper.pack()
    assert files["/deps/greet.py"] == b"GREET = 1\n", "exactly what the lock says"
    assert "/deps/dep.py" in files and "/deps/paper.py" not in files
    assert "requirements.lock" not in shopper.bundle(), "the lock is one of the sources"
    shopper.publish(project(manifest='extras = ["pdf"]\n' + MANIFEST, **{"uv.lock": uv_lock(hashes)}))
    assert "/deps/paper.py" in shopper.pack()

    text = refused(shopper, project(**{"uv.lock": uv_lock(hashes, ">=2")}))
    assert "uv.lock: was made for other dependencies than pyproject.toml has now (greet>=1 is not in it)" in text
    assert text.endswith("run: uv lock")
    text = refused(shopper, project(**{"uv.lock": uv_lock(hashes | {"greet": hashes["greet2"]})}))
    assert text.startswith("uv.lock: greet==1.0: the index gives another file than the one that was locked")
    text = refused(shopper, project(**{"uv.lock": uv_lock(hashes, source='{ git = "https://example.org/x" }')}))
    assert "comes from git; packages come from the node's index only" in text
    assert "run: uv lock --upgrade" in refused(shopper, project(**{"uv.lock": uv_lock(hashes)}), upgrade=True)


def pylock(hashes: dict[str, str], more: str = "") -> str:
    return f"""lock-version = "1.0"
requires-python = ">=3.11"
environments = ["sys_platform == 'linux'", "sys_platform == 'darwin'"]
extras = ["pdf"]
created-by = "a test"

[[packages]]
name = "greet"
version = "1.0"
wheels = [{{ url = "https://evil.example/greet.whl", hashes = {{ sha256 = "{hashes["greet"]}" }} }}]
[[packages]]
name = "dep"
version = "1.0"
wheels = [{{ name = "dep-1.0-py3-none-any.whl", hashes = {{ sha256 = "{hashes["dep"]}" }} }}]
[[packages]]
name = "paper"
version = "1.0"
marker = "'pdf' in extras"
wheels = [{{ name = "paper-1.0-py3-none-any.whl", hashes = {{ sha256 = "{hashes["paper"]}" }} }}]
[[packages]]
name = "wares"
directory = {{ path = ".", editable = true }}
{more}"""


def test_pylock_toml(shopper: Any, hashes: dict[str, str], refused: Refusing) -> None:
    shopper.publish(project(**{"pylock.toml": pylock(hashes)}))
    files = shopper.pack()
    assert files["/deps/greet.py"] == b"GREET = 1\n" and "/deps/paper.py" not in files
    assert files["/deps/wares/__init__.py"] == b"app = None\n"
    shopper.publish(project(manifest='extras = ["pdf"]\n' + MANIFEST, **{"pylock.toml": pylock(hashes)}))
    assert "/deps/paper.py" in shopper.pack()
    alone = pylock(hashes).partition('[[packages]]\nname = "wares"')[0]
    shopper.publish({"fildes.toml": MANIFEST, "wares.py": "", "pylock.toml": alone})
    assert "/deps/greet.py" in shopper.pack(), "a lock without a pyproject.toml"

    text = refused(shopper, project(PROJECT.replace("greet>=1", "greet>=2"), **{"pylock.toml": pylock(hashes)}))
    assert (
        "pylock.toml: does not fit pyproject.toml: greet 1.0 is in it, and greet>=2 is wanted; run: uv export" in text
    )
    for kind in ('vcs = { type = "git", url = "x" }', 'archive = { url = "x" }', 'directory = { path = "lib" }'):
        text = refused(shopper, project(**{"pylock.toml": pylock(hashes, f'[[packages]]\nname = "x"\n{kind}\n')}))
        assert "packages come from the node's index only" in text


def test_our_own_lock_travels(shopper: Any, hashes: dict[str, str], shop: Index, refused: Refusing) -> None:
    """What `fildes publish --lock` writes beside the manifest gives the same bundle, here and on any other node."""
    shopper.publish(project())
    first = shopper.messages[-1].bundle
    answer = shopper.run(shopper.script.ask("publish.lock", Lock("shop"), reply=Lock))
    with answer.fds[0] as sealed:
        lock = os.pread(sealed.fileno(), 1 << 20, 0).decode()
    assert lock.encode() == shopper.bundle()["requirements.lock"]
    locked = project(**{"requirements.lock": lock})
    shopper.current.clear()
    for kept in (shopper.folder / "publish/locks").iterdir():
        kept.unlink()
    shop.add("greet", "3.0", {"greet.py": "GREET = 3\n"})
    try:
        shopper.publish(dict(reversed(locked.items())))
        assert shopper.messages[-1].bundle == first, "the same sources and lock: the same hash"
        assert "requirements.lock has them" in shopper.progress[2].text

        changed = locked | {"pyproject.toml": PROJECT.replace("greet>=1", "greet>=2")}
        text = refused(shopper, changed)
        assert "requirements.lock: does not match pyproject.toml: it was made for other requirements" in text
        assert text.endswith("run: fildes publish DIR --lock, or remove requirements.lock")
        shopper.publish(changed, lock=True)
        assert shopper.pack()["/deps/greet.py"] == b"GREET = 2\n", "the versions stay where they still fit"
        assert "add --lock, and it is written anew" in refused(shopper, locked, upgrade=True)
        shopper.publish(locked, lock=True, upgrade=True)
        assert shopper.pack()["/deps/greet.py"] == b"GREET = 3\n"
        foreign = f"greet==3.0 --hash=sha256:{hashes['dep']}\n"  # of another tool: no head
        text = refused(shopper, project(PROJECT.replace("greet>=1", "greet<3"), **{"requirements.lock": foreign}))
        assert "greet 3.0 is in it, and greet<3 is wanted" in text
    finally:
        next(shop.folder.glob("greet-3.0*")).unlink()


def test_a_service_without_a_lock_has_none_to_give(shopper: Any) -> None:
    assert shopper.run(shopper.script.ask("publish.lock", Lock("nobody"), reply=Lock)).fds == []
    shopper.publish({"fildes.toml": MANIFEST, "wares.py": ""})
    assert shopper.run(shopper.script.ask("publish.lock", Lock("shop"), reply=Lock)).fds == []


def test_stored_sources_for_another_python(
    shopper: Any, hashes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle is what was published; the pack is made again of it, under the manifest that the catalogue has."""
    monkeypatch.setattr(flow, "ABI", "cpython-39-of-yesterday")
    shopper.publish(project())
    then = shopper.messages[-1]
    assert then.abi == "cpython-39-of-yesterday"
    monkeypatch.setattr(flow, "ABI", ABI)
    asked = shopper.script.ask("publish.repack", Repack("again", "shop"), reply=catalogue.Published, timeout=60)
    shopper.run(asked)
    now = shopper.messages[-1]
    assert (now.bundle, now.abi, now.manifest) == (then.bundle, ABI, then.manifest)
    assert shopper.pack()["/deps/greet.py"] == b"GREET = 2\n"


def test_what_was_installed_for_a_lock_serves_it_when_it_is_uploaded(
    shopper: Any, hashes: dict[str, str], shop: Index
) -> None:
    shopper.publish(project())
    lock = shopper.bundle()["requirements.lock"].decode()
    shop.stop()
    try:
        shopper.publish(project(**{"requirements.lock": lock, "more.txt": ""}))
        assert "installed before" in shopper.progress[4].text
    finally:
        shop.start()
