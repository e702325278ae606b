"""A package with data beside its modules."""
