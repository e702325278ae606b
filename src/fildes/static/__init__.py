"""All static sites of a node, in one process."""
