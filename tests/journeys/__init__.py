"""Journeys: what a user does, from outside. A package, so that the nodes that its tests share end with it."""
