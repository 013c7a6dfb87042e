"""Brings pictures of more than 8 bits to 8: by a window that the user gives, or by the full range if they fill it.

A 12-bit scan stored with 16 bits is all but black if 65535 is taken for white, and nothing in the file says so. So the
values are looked at: a file that reaches the upper half of 16 bits is taken to use all of them, any other is refused.
"""

import numpy as np
from PIL import Image

WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # grey of more than 8 bits
FULL = 65535
Window = tuple[float, float]  # (value that becomes 0, value that becomes 255)


def require_window(window: Window | None) -> None:
    """Raises ValueError if the window's ends are not ascending finite numbers."""
    if window is not None and not (np.isfinite(window).all() and window[0] < window[1]):
        raise ValueError(f"--window {window[0]:g} {window[1]:g}: expected LOW < HIGH, e.g. --window 0 4095")


def has_wide_colours(image: Image.Image) -> bool:
    """Whether an unread file stores more than 8 bits per colour, of which Pillow keeps only the upper 8."""
    return image.mode not in WIDE and ";16" in str(getattr(image, "tile", ""))


def require_full_range(image: Image.Image, window: Window | None) -> None:
    """Checks an RGB picture that was cut to its upper 8 bits: right only if its values fill 16.

    Raises:
        ValueError: a window is given, which needs the lower bits too, or the values stay in the lower half.
    """
    colours = image.convert("RGB").getextrema()
    high = max(int(high) for _, high in colours)  # type: ignore[misc]
    if window is not None or 0 <= high < 128:
        raise ValueError(
            f"colour with 16 bits per channel, values up to about {high * 256 + 255}: only pictures that use the full "
            "range to 65535 are read, and --window applies to grey ones; convert it to 8-bit RGB"
        )


def narrowed(image: Image.Image, window: Window | None) -> Image.Image:
    """8-bit grey of a wider picture.

    Raises:
        ValueError: the values' range is unknown; the message tells it, and a window that would fit.
    """
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some pixels are NaN or infinite; replace them, or save the image with 8 bits")
    low, high = window or full_range(values, image.mode)
    return Image.fromarray(np.rint((values.clip(low, high) - low) * (255 / (high - low))).astype(np.uint8))


def full_range(values: np.ndarray, mode: str) -> Window:
    """(0, 65535) if the values fill 16 bits, or are all 0.

    Raises:
        ValueError: they don't.
    """
    low, high = values.min(), values.max()
    found = f"values {low:g} to {high:g}"
    if mode == "F":
        raise ValueError(f"floating-point pixels ({found}) have no agreed range; give it, e.g. --window 0 1")
    if low < 0 or high > FULL:
        raise ValueError(f"{found} have no agreed range; give it with --window LOW HIGH, or save with 8 or 16 bits")
    if 0 < high <= FULL // 2:
        bits = int(high).bit_length()
        raise ValueError(
            f"{found} fill {max(bits, 8)} of 16 bits, so black and white are unknown; give them, e.g. "
            f"--window 0 {2 ** max(bits, 8) - 1}, or --window 0 65535 if the picture is as dark as that"
        )
    return 0, FULL
