"""Experiments of many runs: comparison, quality curve, quickstart."""
