"""The door: accepts connections, reads the head, hands the connection to the release that it is for."""
