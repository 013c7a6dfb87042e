"""Class maps as pictures: a palette, tints over an image, and the two kinds of error told apart."""

import base64
import colorsys
import io

import numpy as np
from PIL import Image

from sward.contracts import IGNORE

OPACITY = 0.55
# Okabe & Ito's colours, which most colour-blind readers can tell apart.
HIT, MISSED, FALSE = (0, 158, 115), (0, 114, 178), (230, 159, 0)


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
    colours = np.concatenate([palette(num_classes), np.zeros((256 - num_classes, 3), np.uint8)])
    return tint(image, colours[mask.astype(np.uint8)], (mask > 0) & (mask != IGNORE))


def errors(image: np.ndarray, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Image tinted where two-class masks agree on the foreground, miss it, or invent it."""
    colours = np.zeros_like(image)
    found, true = prediction == 1, label == 1
    for where, colour in ((found & true, HIT), (~found & true, MISSED), (found & ~true, FALSE)):
        colours[where] = colour
    return tint(image, colours, (found | true) & (label != IGNORE))


def tint(image: np.ndarray, colours: np.ndarray, where: np.ndarray) -> np.ndarray:
    mixed = np.rint((1 - OPACITY) * image + OPACITY * colours).astype(np.uint8)
    return np.where(where[..., None], mixed, image)


def fit(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Class map (H, W) at ``size`` (height, width), nearest."""
    return np.asarray(Image.fromarray(array.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST))


def data_uri(image: np.ndarray, longest: int = 320) -> str:
    """A picture as a data: address, JPEG, at most ``longest`` pixels a side: some 15 kB."""
    picture = Image.fromarray(image)
    picture.thumbnail((longest, longest))
    buffer = io.BytesIO()
    picture.save(buffer, format="jpeg", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
