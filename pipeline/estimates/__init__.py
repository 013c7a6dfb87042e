"""Estimates of both stages before they run: sizes, times, capacity (`sward plan`)."""
