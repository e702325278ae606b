"""The stage of the ASGI tests (a real zygote, real instances, a small real door), with the WSGI runtime on it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def _stage() -> Any:
    name = "fildes_tests_stage"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE.parent / "asgi" / "conftest.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def settings_for(settings: dict[str, Any]) -> dict[str, Any]:
    own = {"runtime": "wsgi", "paths": [str(HERE)], "concurrency": 16, "tasks": 32}
    made: dict[str, Any] = _stage().settings_for("none", own | settings)
    return made


@pytest.fixture
def make_stage(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A stage of one's own, without an instance yet."""
    stages: list[Any] = []

    def make(env: dict[str, str] | None = None, **settings: Any) -> Any:
        stages.append(_stage().Stage(tmp_path, settings_for(settings), env or {}))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A stage with one instance running, for all tests of a module."""
    made = _stage().Stage(tmp_path_factory.mktemp("stage"), settings_for({}), {})
    assert made.loaded == "loaded 1", made.log()
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="session")
def stage_of() -> Callable[..., Any]:
    """Makes a stage in a folder, with settings; who asks for it closes it."""
    return lambda folder, **settings: _stage().Stage(folder, settings_for(settings), {})
