"""The procedural colonoscopy-like data set."""
