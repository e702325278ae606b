"""PROMISES.md names tests that exist: a promise whose test was renamed or removed is one that nobody keeps."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def _tests(file: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kinds)}


def test_every_promise_has_tests_that_exist() -> None:
    page = (ROOT / "PROMISES.md").read_text()
    promises = re.split(r"^\*\*\d\. ", page.partition("## What it costs")[0], flags=re.MULTILINE)[1:]
    assert len(promises) == 9
    for promise in promises:
        named = NAMED.findall(promise)
        assert named, promise
        for file, name in named:
            assert name in _tests(ROOT / file), f"{file}::{name}"
