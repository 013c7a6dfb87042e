"""Brings pictures of more than 8 bits to 8: by a window that the user gives, or by the full range if they fill it.

A 12-bit scan stored with 16 bits is all but black if 65535 is taken for white, and nothing in the file says so. So the
values are looked at: a file that reaches the upper half of 16 bits is taken to use all of them, any other is refused.
"""

import numpy as np
from PIL import Image

from pipeline.datasets.formats.recognise import is_dicom, is_nifti
from pipeline.datasets.formats.wide import require_finite, to_bytes
from pipeline.datasets.image_files import pixels_of, read_scan

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


def require_full_range(image: Image.Image) -> None:
    """Checks a colour picture that was cut to its upper 8 bits: right only if its values fill 16.

    Raises:
        ValueError: the values stay in the lower half; the message names a window that would fit.
    """
    colours = image.convert("RGB").getextrema()
    high = max(int(high) for _, high in colours)  # type: ignore[misc]
    if high < 128:
        most = high * 256 + 255
        raise ValueError(
            f"colour with 16 bits per channel, values up to about {most}, so black and white are unknown; give them, "
            f"e.g. --window 0 {2 ** most.bit_length() - 1}, or --window 0 65535 if the picture is as dark as that"
        )


def narrowed(image: Image.Image, window: Window | None) -> Image.Image:
    """8-bit grey of a wider picture.

    Raises:
        ValueError: the values' range is unknown; the message tells it, and a window that would fit.
    """
    values = np.asarray(image)
    return Image.fromarray(to_bytes(values, window or full_range(values, image.mode)))


def full_range(values: np.ndarray, mode: str) -> Window:
    """(0, 65535) if the values fill 16 bits, or are all 0.

    Raises:
        ValueError: they don't.
    """
    require_finite(values)
    low, high = float(values.min()), float(values.max())
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


def is_scan(content: bytes) -> bool:
    """Whether a file is DICOM or NIfTI."""
    return is_dicom(content) or is_nifti(content)


def scan_pixels(content: bytes, window: Window | None) -> np.ndarray:
    """(H, W, 3) uint8 of a slice as DICOM or NIfTI, read as training reads it.

    Raises:
        UnsupportedImageError: the extra ``medical`` is not installed, or the file has several slices.
        ValueError: more than 8 bits without a window; the message tells the range.
    """
    scan = read_scan(content)
    if scan.values.dtype != np.uint8 and window is None:
        found = f"values {scan.values.min():g} to {scan.values.max():g}{scan.known}"
        raise ValueError(
            f"{found} have no agreed range; give it with --window LOW HIGH, as on the card of the training"
        )
    return pixels_of(scan, window)
