"""Colours of classes and pictures of class maps."""
