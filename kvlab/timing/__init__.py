"""The clock, the stamps, and the streaming client that takes them."""
