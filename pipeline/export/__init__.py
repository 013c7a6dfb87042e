"""Exports a trained student to files for other programs, and checks and measures them."""
