"""Statistics: intervals, steady state, extrapolation."""
