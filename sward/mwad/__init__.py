"""Multi-scale windowed attention distillation (MWAD): loss, configuration, windows and projections."""
