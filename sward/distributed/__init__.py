"""Losses and layers of a batch that several processes share."""
