"""Grey values of a mask file, and the error for values that a card does not name."""

import numpy as np
from PIL import Image

PART = 1 << 20  # pixels
LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF")  # formats whose values are changed by saving; WebP and TIFF may be either


class MaskError(ValueError):
    """A mask holds what its encoding does not name."""


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    return image.has_transparency_data and int(np.asarray(image.convert("RGBA"))[..., 3].min()) < 255


def opaque(mask: Image.Image) -> Image.Image:
    """The mask itself.

    Raises:
        MaskError: it has transparent pixels.
    """
    if is_transparent(mask):
        raise MaskError("has transparent pixels; save it without an alpha channel")
    return mask


def grey_values(mask: Image.Image, exact: bool = False) -> np.ndarray:
    """(H, W) grey values, uint8 up to 8 bits. A mask saved as RGB must be grey; noise is averaged unless ``exact``.

    Raises:
        MaskError: the mask is coloured or transparent.
    """
    if mask.mode == "1":
        return np.asarray(mask).astype(np.uint8)
    if mask.mode == "L" or mask.mode.startswith("I"):
        return np.asarray(mask)
    colours = np.asarray(opaque(mask).convert("RGB"))
    first = np.ascontiguousarray(colours[..., 0])
    if (first == colours[..., 1]).all() and (first == colours[..., 2]).all():
        return first
    spread = int((colours.max(-1) - colours.min(-1)).max())
    if spread > (0 if exact else 32):
        raise MaskError(f"is coloured (channels differ by up to {spread}); expected grey: use encoding palette")
    return first if exact else colours.mean(-1, dtype=np.float32).round().astype(np.uint8)


def count_values(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values and their counts; in parts, as counting needs eight bytes a pixel."""
    flat = values.ravel()
    if flat.size == 0 or flat.min() < 0 or flat.max() > 65535:
        return np.unique(flat, return_counts=True)
    length = int(flat.max()) + 1
    parts = (flat[k : k + PART] for k in range(0, flat.size, PART))
    counts = sum((np.bincount(part, minlength=length) for part in parts), np.zeros(length, np.int64))
    found = counts.nonzero()[0]
    return found, counts[found]


def depth(mask: Image.Image) -> int:
    """Bits of a grey value: 1, 8, 16 or 32."""
    if mask.mode == "1":
        return 1
    return {"I": 32}.get(mask.mode, 16 if mask.mode.startswith("I") else 8)


def is_lossy(mask: Image.Image) -> bool:
    """Whether saving the mask may have changed its values."""
    if mask.format == "WEBP":
        return not mask.info.get("lossless", False)
    return mask.format in LOSSY or mask.info.get("compression") == "jpeg"
