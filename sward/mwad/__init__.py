"""Multi-scale windowed attention distillation (MWAD)."""
