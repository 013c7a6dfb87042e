"""Profiling of a run: the time of each part of a training step."""
