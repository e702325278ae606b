"""One folder a process that opens one kind of resource for others, and checks what they ask."""
