"""Time of each part of a training step."""
