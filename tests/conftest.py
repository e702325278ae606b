"""Fixtures for all tests."""

from __future__ import annotations

from fildes.testing.plugin import house, node, start_node

__all__ = ["house", "node", "start_node"]
