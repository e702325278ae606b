"""What every daemon shares: its channel to the bus, its drawer in init's fd store, how it starts."""
