"""pytest fixtures: `node`; `start_node` for tests that need several, or another one; `house`, which tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fildes.testing.node import Node


@pytest.fixture
def start_node() -> Iterator[Callable[..., Node]]:
    """`start_node(**what Node takes)`: started now, ended and checked after the test."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> Node:
            return stack.enter_context(Node(*arguments, **options))

        yield start


@pytest.fixture
def node(start_node: Callable[..., Node]) -> Node:
    """A node of this test's own."""
    return start_node()


@pytest.fixture(scope="package")
def house() -> Iterator[Node]:
    """A node that a package's tests share: each leaves it as it was, but for services of its own. Programs have 3 s to
    load."""
    with Node(arguments=["--load-limit", "3"]) as node:
        yield node
