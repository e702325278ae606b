"""The bus: who may ask whom, and introductions. It handles only descriptors that init, drivers or daemons gave it."""
