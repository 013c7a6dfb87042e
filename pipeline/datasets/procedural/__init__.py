"""The procedural colonoscopy-like data set: images and masks as functions of (seed, number)."""

from pipeline.datasets.procedural.config import Procedural, render

__all__ = ["Procedural", "render"]
