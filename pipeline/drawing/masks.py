"""Draws class maps: colour palette, tinted overlays, and a layer with one colour for each kind of error."""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sward.contracts import IGNORE

OPACITY = 0.55  # of a tint; the report's page starts at the same value (--strength in style.css)
# Colours of correct, missed and false foreground: told apart by most colour-blind readers, and used for no row's line.
HIT, MISSED, FALSE = (245, 245, 245), (86, 180, 233), (240, 228, 66)


@dataclass(frozen=True)
class Layer:
    """Semi-transparent tint over an image.

    Attributes:
        which: (H, W) uint8 index into ``colours``; 0 where the image is not tinted.
        colours: (N, 3) uint8 RGB.
    """

    which: np.ndarray
    colours: np.ndarray

    def over(self, image: np.ndarray) -> np.ndarray:
        """Returns the image, (H, W, 3) uint8, with the tint over it."""
        return tint(image, self.colours[self.which].astype(np.uint8), self.which > 0)


def palette(num_classes: int) -> np.ndarray:
    """Returns (K, 3) uint8 RGB colours for K classes.

    Class 0 is black. The hues of the others are one golden angle apart and start at green-blue, which stands out
    from mucosa.
    """
    hues = [(0.45 + 0.618034 * c) % 1 for c in range(num_classes - 1)]
    colours = [(0.0, 0.0, 0.0), *(colorsys.hsv_to_rgb(hue, 0.9, 0.95) for hue in hues)]
    return np.rint(255 * np.array(colours)).astype(np.uint8)


def indexed(mask: np.ndarray, num_classes: int) -> Image.Image:
    """Converts a class map (H, W) to an indexed picture with the palette."""
    picture = Image.fromarray(mask.astype(np.uint8), "P")
    picture.putpalette(palette(num_classes).tobytes())
    return picture


def overlay(image: np.ndarray, mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Tints an image (H, W, 3) uint8 where ``mask`` (H, W) is a class other than 0 and is not ignored."""
    return class_layer(mask, num_classes).over(image)


def class_layer(mask: np.ndarray, num_classes: int) -> Layer:
    """Layer of the classes of ``mask`` (H, W) other than 0, in the palette's colours."""
    return Layer(np.where(mask == IGNORE, 0, mask).astype(np.uint8), palette(num_classes))


def error_layer(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> Layer:
    """Layer of errors. Two classes: correct, missed and false foreground. More classes: pixels of the wrong class."""
    if num_classes > 2:
        which = np.where(prediction != label, 3, 0)
    else:
        which = np.select([(prediction == 1) & (label == 1), label == 1, prediction == 1], [1, 2, 3], 0)
    return Layer(np.where(label == IGNORE, 0, which).astype(np.uint8), np.array([(0, 0, 0), HIT, MISSED, FALSE]))


def tint(image: np.ndarray, colours: np.ndarray, where: np.ndarray) -> np.ndarray:
    mixed = np.rint((1 - OPACITY) * image + OPACITY * colours).astype(np.uint8)
    return np.where(where[..., None], mixed, image)


def fit(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a class map (H, W) to ``size`` (height, width) by nearest neighbour."""
    return np.asarray(Image.fromarray(array.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST))
