"""Who may import whom, and what a file may be: the rules of ARCHITECTURE.md, held."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "fildes"
FILES = sorted(SOURCE.rglob("*.py"))

DAEMONS = {"init", "bus", "catalogue", "orchestrator", "web", "static", "publish", "debug", "drivers"}
# What each folder may import of ours. A folder that is not here may import nothing of ours.
ALLOWED: dict[str, set[str]] = {
    "kernel": set(),
    "wire": {"kernel"},
    "pack": {"kernel"},
    "pages": set(),
    "manifest": {"wire", "capabilities"},
    "sandbox": {"kernel"},
    "daemon": {"kernel", "wire", "sandbox"},
    "capabilities": {"kernel", "wire", "sdk"},
    "sdk": {"kernel", "wire", "capabilities", "runtime"},
    "zygote": {"kernel", "wire", "runtime", "sdk"},
    "runtime": {"kernel", "wire", "pack", "sdk", "capabilities"},
    "init": {"kernel", "wire", "daemon"},
    "cli": {"kernel", "wire", "init", "manifest", "pack", "sandbox", "capabilities"},
    "testing": {"kernel", "wire", "cli", "daemon"},
} | {
    daemon: {"kernel", "wire", "daemon", "manifest", "pack", "pages", "sandbox", "capabilities"}
    for daemon in ("bus", "catalogue", "orchestrator", "web", "static", "publish", "debug", "drivers")
}
# A child of the storage driver is confined as an instance is, by the same means.
EXCEPTIONS = {
    ("drivers/storage/worker.py", "runtime"),
    ("drivers/storage/__main__.py", "runtime"),
    ("cli/restore.py", "catalogue"),  # what tables its database has
}
# The tenant's side: no site-packages there.
STDLIB_ONLY = ("kernel", "zygote", "runtime", "sdk", "pack")
STDLIB_ONLY_FILES = ("wire/http.py", "wire/tenant.py", "wire/store.py", "wire/conveyor.py", "wire/zygote.py")
TENANT_EXTRAS = {"uvloop", "wsproto", "h11"}  # bound into the view, used where they are found
# The trap's library, and the insides of the interpreter, are no kernel ABI.
CTYPES_OUTSIDE_KERNEL = {
    "runtime/trap.py",
    "runtime/files.py",
    "runtime/hot.py",
    "runtime/immortal.py",
    "zygote/forking.py",
    "zygote/server.py",
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def _name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_go_downwards(path: Path):
    folder = path.relative_to(SOURCE).parts[0]
    allowed = ALLOWED.get(folder, set()) | {folder}
    for module in _imports(path):
        if module.startswith("fildes."):
            target = module.split(".")[1]
            if (_name(path), target) in EXCEPTIONS:
                continue
            assert target in allowed, (
                f"{_name(path)} imports {module}; a file in {folder}/ may import {sorted(allowed)}"
            )


def _on_the_tenants_side(name: str) -> bool:
    return name.split("/", maxsplit=1)[0] in STDLIB_ONLY or name in STDLIB_ONLY_FILES or name.endswith("/face.py")


@pytest.mark.parametrize("path", [path for path in FILES if _on_the_tenants_side(_name(path))], ids=_name)
def test_the_tenants_side_needs_only_the_standard_library(path: Path):
    name = _name(path)
    for module in _imports(path):
        top = module.split(".")[0]
        assert (
            top in sys.stdlib_module_names or top == "fildes" or (top in TENANT_EXTRAS and name.startswith("runtime/"))
        )


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_only_kernel_speaks_to_the_kernel_by_ctypes(path: Path):
    name = _name(path)
    if name.startswith("kernel/") or name in CTYPES_OUTSIDE_KERNEL:
        return
    assert "ctypes" not in {module.split(".")[0] for module in _imports(path)}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_are_small(path: Path):
    lines = len(path.read_text().splitlines())
    assert lines <= 600 or path.name == "abi.py", f"{_name(path)} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_nothing_rests_on_assert(path: Path):
    asserts = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
    assert not asserts or _name(path).startswith("testing/"), f"{_name(path)}: lines {asserts}"


def test_a_face_stays_thin():
    """A face is loaded in every tenant: neither its driver nor its declaration comes with it."""
    for path in SOURCE.glob("capabilities/*/face.py"):
        for module in _imports(path):
            assert not module.endswith((".driver", ".grant", ".kinds")), f"{_name(path)} imports {module}"
