"""Benchmarks: kvlab's own error against a known truth. Run by `make bench`; never part of the tests."""
