"""Methods whose adapters attend: CKD over positions, ReviewKD over levels."""
