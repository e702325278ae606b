"""Fixtures for all tests."""

from __future__ import annotations

from fildes.testing.plugin import node, start_node

__all__ = ["node", "start_node"]
