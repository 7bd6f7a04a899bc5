"""Engines: what turns a prompt into a generation, with the evidence for its cache state."""
