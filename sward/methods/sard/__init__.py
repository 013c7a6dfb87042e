"""Spatial attention and relation distillation (SARD)."""
