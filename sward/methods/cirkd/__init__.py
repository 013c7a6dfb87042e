"""Cross-image relational knowledge distillation (CIRKD)."""
