"""Estimates sizes and times of both stages before they run (`sward plan`, docs/capacity.md)."""
