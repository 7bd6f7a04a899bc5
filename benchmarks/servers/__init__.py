"""Stand-ins whose true behaviour is known: what the measuring code says can be compared with it."""
