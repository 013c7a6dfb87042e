"""Masks: their grey values, the two values of binary masks, and labels made of one file or of several."""
