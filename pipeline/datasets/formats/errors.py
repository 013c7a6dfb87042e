"""Errors of files that are readable, but not usable as they are."""


class UnsupportedImageError(ValueError):
    """A file that decodes, but whose pixels depend on a choice that only its owner can make."""
