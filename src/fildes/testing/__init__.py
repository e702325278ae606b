"""For tests of Fildes and of services: a real node, started and ended around a test, that leaves nothing behind."""

from __future__ import annotations

from fildes.testing.node import Leftovers, Node, NodeFailed, Response
from fildes.testing.programs import write_program
from fildes.testing.waiting import eventually

__all__ = ["Leftovers", "Node", "NodeFailed", "Response", "eventually", "write_program"]
