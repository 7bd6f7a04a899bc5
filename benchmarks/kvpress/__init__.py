"""kvpress, the reference of the policies, in an environment of its own (`make conformance`)."""
