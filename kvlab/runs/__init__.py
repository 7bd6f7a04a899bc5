"""Run folders: contract, status, lock, and files that are replaced whole."""
