"""A trained student as files for other programs, and their checks."""
