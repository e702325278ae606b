"""The process that turns an uploaded folder into a bundle and a pack: everything it reads is hostile."""
