"""Runs an extraction on the workers of a Dask cluster."""
