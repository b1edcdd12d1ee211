"""Sensitivity analysis: wall time against the naive loop, with equal tables."""
