"""Stage 2: trains one student from a feature store; `loop.train` is the entry point."""
