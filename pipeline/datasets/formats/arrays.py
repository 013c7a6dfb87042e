"""Arrays as pictures: .npy masks, and the checks that other array formats share."""

import io

import numpy as np
from PIL import Image

from pipeline.datasets.formats.errors import UnsupportedImageError


def read_npy(content: bytes) -> np.ndarray:
    """The array of an .npy file.

    Raises:
        UnsupportedImageError: it holds Python objects.
        ValueError, EOFError: it is damaged.
    """
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise UnsupportedImageError("holds Python objects; save a plain array of integers") from error
        raise


def mask_image(values: np.ndarray) -> Image.Image:
    """A picture with the values of a mask: (H, W) of integers or bool, or (H, W, 3) uint8 of colours.

    Raises:
        UnsupportedImageError: another shape, or values that are no integers of 32 bits.
    """
    values = _flat(values)
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.rint(values)).all()):
            raise UnsupportedImageError("pixel format F with fractions; save the mask with integers, e.g. as 8-bit PNG")
        values = values.astype(np.int64)
    if values.dtype.kind not in "bui":
        raise UnsupportedImageError(f"values of type {values.dtype}; save the mask with integers")
    if values.dtype == np.bool_ or (values.ndim == 3 and values.dtype == np.uint8):
        return Image.fromarray(values)
    if values.ndim == 3:
        raise UnsupportedImageError(f"colours of type {values.dtype}; save the mask with 8 bits a channel")
    low, high = int(values.min()), int(values.max())
    if low < -(2**31) or high >= 2**31:
        raise UnsupportedImageError(f"values {low} to {high}; expected labels of at most 31 bits")
    fitting = next(t for t in (np.uint8, np.uint16, np.int32) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return Image.fromarray(np.ascontiguousarray(values, fitting))


def _flat(values: np.ndarray) -> np.ndarray:
    """The array without axes of length 1 at its front or end."""
    shape = values.shape
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    while values.ndim > 2 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.size and (values.ndim == 2 or (values.ndim == 3 and values.shape[-1] == 3)):
        return values
    raise UnsupportedImageError(
        f"an array of shape {shape}; expected (height, width) with one label a pixel: save each slice as a file of its "
        "own, and one-hot masks as their argmax"
    )
