"""The base pack: named after what is in it, made whole or not at all."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from fildes.pack import base
from fildes.pack.bytecode import cache_name, converted
from fildes.pack.reader import Pack


def test_its_name_stays_and_it_holds_what_instances_need(tmp_path: Path) -> None:
    name = base.name()
    assert name == base.name()
    assert name.startswith(f"base-{sys.implementation.cache_tag}-")
    path = tmp_path / name
    summary = base.build(path)
    assert os.listdir(tmp_path) == [name]
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Pack(fd) as pack:
            assert len(pack) == summary.members
            stdlib = sysconfig.get_path("stdlib")
            tag = sys.implementation.cache_tag
            for wanted in (
                f"{stdlib}/json/decoder.py",
                f"{stdlib}/json/__pycache__/decoder.{tag}.pyc",
                f"{base.PACKAGE}/runtime/trap.py",
                f"{base.PACKAGE}/runtime/__pycache__/trap.{tag}.pyc",
                f"{base.SITE}/wsproto/__init__.py",
                "/etc/hosts",
            ):
                assert pack.lookup(wanted) is not None, wanted
            for unwanted in (
                f"{stdlib}/test",
                f"{stdlib}/site-packages",
                f"{base.PACKAGE}/init",
                f"{base.PACKAGE}/web",
            ):
                assert pack.lookup(unwanted) is None, unwanted
    finally:
        os.close(fd)


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(base, "write_base", fail)
    with pytest.raises(OSError, match="space"):
        base.build(tmp_path / "pack")
    assert os.listdir(tmp_path) == []


def test_an_interpreter_that_is_none_is_named() -> None:
    with pytest.raises(OSError, match="/bin/false does not say what it is"):
        base.name("/bin/false")


def test_byte_code_that_does_not_fit_its_source_is_not_taken(tmp_path: Path) -> None:
    import importlib.util
    import py_compile

    source = tmp_path / "mod.py"
    source.write_text("X = 1\n")
    magic, tag = importlib.util.MAGIC_NUMBER, sys.implementation.cache_tag
    assert converted(source, magic, tag) is None
    py_compile.compile(
        str(source), cfile=cache_name(str(source), tag), invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP
    )
    taken = converted(source, magic, tag)
    assert (
        taken is not None
        and taken[4:8] == b"\1\0\0\0"
        and taken[8:16] == importlib.util.source_hash(source.read_bytes())
    )
    assert converted(source, b"\0\0\r\n", tag) is None
    source.write_text("X = 12\n")
    assert converted(source, magic, tag) is None
