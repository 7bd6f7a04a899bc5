"""Commands: what a person types, and what runs a notebook without one."""
