"""Prediction on people's own pictures."""
