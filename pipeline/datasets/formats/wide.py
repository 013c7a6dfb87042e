"""Images of more than 8 bits a channel: their values, and the window that makes 8 bits of them.

Pillow has no mode for 16-bit colours and reads their high bytes only. The same decoder with the byte order
exchanged reads the low bytes, so two passes give all 16 bits.
"""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from pipeline.datasets.formats.errors import UnsupportedImageError

EXCHANGED = {"16B": "16L", "16L": "16B", "16N": "16B"}  # N: the machine's own order, which is little-endian here


def is_wide(image: ImageFile.ImageFile) -> bool:
    """Whether a picture just opened has more than 8 bits a channel. To be asked before anything reads its pixels."""
    return image.mode.startswith("I") or image.mode == "F" or ";16" in str(image.tile)


def wide_values(image: ImageFile.ImageFile, content: bytes) -> np.ndarray:
    """(H, W) or (H, W, 3) values of such a picture.

    Raises:
        UnsupportedImageError: transparency, or 16-bit grey with alpha.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    args: Any = image.tile[0].args
    mode = args if isinstance(args, str) else args[0]
    if not mode.startswith("RGB"):
        raise UnsupportedImageError(f"16 bits in pixel format {mode}; save the image without an alpha channel")
    low = Image.open(io.BytesIO(content))
    low.tile = [tile._replace(args=_exchanged(tile.args)) for tile in low.tile]
    high = np.asarray(image).astype(np.uint16)
    values = high << 8 | np.asarray(low)
    if values.shape[-1] == 4 and values[..., 3].min() < 65535:
        raise UnsupportedImageError("16 bits with transparent pixels; save the image without an alpha channel")
    return values[..., :3]


def _exchanged(args: Any) -> Any:
    """The arguments of Pillow's decoder with the two bytes of a value exchanged."""
    if isinstance(args, str):
        return args[:-3] + EXCHANGED[args[-3:]]
    return (_exchanged(args[0]), *args[1:])


def narrowed(values: np.ndarray, window: tuple[float, float] | None, form: str, known: str = "") -> np.ndarray:
    """uint8 of values: ``window`` becomes 0..255, what lies outside is cut off.

    Args:
        values: of any number type.
        window: low and high.
        form: name of the pixel format, for the message.
        known: what the file itself says of its range.

    Raises:
        UnsupportedImageError: no window, or values that are not finite.
    """
    if window is None:
        require_finite(values)
        low, high = values.min(), values.max()
        raise UnsupportedImageError(
            f"pixel format {form} of more than 8 bits a channel, values {low:g} to {high:g}{known}; "
            f"say on the card which become black and white: {_proposal(float(low), float(high))}, "
            "or convert to 8-bit RGB"
        )
    return to_bytes(values, window)


def to_bytes(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """uint8 of values: ``window`` becomes 0..255, what lies outside is cut off.

    Raises:
        UnsupportedImageError: values that are not finite.
    """
    require_finite(values)
    share = (values.astype(np.float64) - window[0]) / (window[1] - window[0])
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def require_finite(values: np.ndarray) -> None:
    """Raises UnsupportedImageError if a value is NaN or infinite."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnsupportedImageError("values that are NaN or infinite; replace them and save the image again")


def _proposal(low: float, high: float) -> str:
    bits = next((b for b in (10, 12, 14, 16) if high < 2**b), None)
    if low >= 0 and high > 255 and bits:
        return f"bits: {bits} (0 to {2**bits - 1}) or window: [low, high]"
    return "window: [low, high]"
