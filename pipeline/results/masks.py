"""Class maps as pictures: a palette, tints over an image, and the kinds of error told apart."""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sward.contracts import IGNORE

OPACITY = 0.55
# Okabe & Ito's colours, which most colour-blind readers can tell apart.
HIT, MISSED, FALSE = (0, 158, 115), (0, 114, 178), (230, 159, 0)


@dataclass(frozen=True)
class Layer:
    """A tint to lay over an image. which: (H, W) uint8, 0 where there is none. colours: (N, 3) uint8 by ``which``."""

    which: np.ndarray
    colours: np.ndarray

    def over(self, image: np.ndarray) -> np.ndarray:
        """The image (H, W, 3) uint8 under the tint."""
        return tint(image, self.colours[self.which].astype(np.uint8), self.which > 0)


def palette(num_classes: int) -> np.ndarray:
    """(K, 3) uint8 colours: class 0 black, the others around the colour circle by golden angles, from green-blue
    on, which shows on mucosa."""
    hues = [(0.45 + 0.618034 * c) % 1 for c in range(num_classes - 1)]
    colours = [(0.0, 0.0, 0.0), *(colorsys.hsv_to_rgb(hue, 0.9, 0.95) for hue in hues)]
    return np.rint(255 * np.array(colours)).astype(np.uint8)


def indexed(mask: np.ndarray, num_classes: int) -> Image.Image:
    """A class map (H, W) as an indexed picture with the palette."""
    picture = Image.fromarray(mask.astype(np.uint8), "P")
    picture.putpalette(palette(num_classes).tobytes())
    return picture


def overlay(image: np.ndarray, mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Image (H, W, 3) uint8 tinted where ``mask`` (H, W) is a class other than 0 (and not ignored)."""
    return class_layer(mask, num_classes).over(image)


def class_layer(mask: np.ndarray, num_classes: int) -> Layer:
    """The classes of ``mask`` (H, W) other than 0, in the palette's colours."""
    return Layer(np.where(mask == IGNORE, 0, mask).astype(np.uint8), palette(num_classes))


def error_layer(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> Layer:
    """Two classes: where the foreground was found, missed and invented. More: where the class is wrong."""
    if num_classes > 2:
        which = np.where(prediction != label, 3, 0)
    else:
        which = np.select([(prediction == 1) & (label == 1), label == 1, prediction == 1], [1, 2, 3], 0)
    return Layer(np.where(label == IGNORE, 0, which).astype(np.uint8), np.array([(0, 0, 0), HIT, MISSED, FALSE]))


def tint(image: np.ndarray, colours: np.ndarray, where: np.ndarray) -> np.ndarray:
    mixed = np.rint((1 - OPACITY) * image + OPACITY * colours).astype(np.uint8)
    return np.where(where[..., None], mixed, image)


def fit(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Class map (H, W) at ``size`` (height, width), nearest."""
    return np.asarray(Image.fromarray(array.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST))
