"""Training steps that some methods need before the student trains."""
