"""Pre-stages: parts of a method that are trained once, before any student."""
