"""Prompts of an exact token length, isolated from one another."""
