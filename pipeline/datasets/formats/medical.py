"""DICOM files and two-dimensional NIfTI files as arrays; both need the extra ``medical``."""

import gzip
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.datasets.formats.errors import UnsupportedImageError

EXTRA = "pip install 'sward[medical]'"
SLICES = (
    "save each slice as a file of its own, image and mask alike, e.g. np.save(f'masks/{n}.npy', volume[:, :, n].T) for "
    "masks and 16-bit PNG with window: on the card for images"
)


@dataclass(frozen=True)
class Scan:
    """An image of a scanner.

    Attributes:
        values: (H, W) numbers, or (H, W, 3) uint8.
        inverted: whether large values are dark (MONOCHROME1).
        known: what the file says of its range, for messages.
    """

    values: np.ndarray
    inverted: bool = False
    known: str = ""


def read_dicom(content: bytes, stored: bool = False) -> Scan:
    """The image of a DICOM file in its physical units (Hounsfield), or the ``stored`` values of a mask.

    Raises:
        UnsupportedImageError: pydicom is not installed, or the file has several frames.
        Exception: whatever pydicom raises for damaged or packed files; its text says which package unpacks them.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_rescale, convert_color_space
    except ImportError as error:
        raise UnsupportedImageError(f"a DICOM file; it is read with pydicom: {EXTRA}") from error
    data = pydicom.dcmread(io.BytesIO(content))
    if int(data.get("NumberOfFrames") or 1) > 1:
        raise UnsupportedImageError(f"a DICOM file of {data.NumberOfFrames} frames; {SLICES}")
    values, colours = data.pixel_array, str(data.PhotometricInterpretation)
    if values.ndim == 3 and colours.startswith("YBR"):
        values = convert_color_space(values, colours, "RGB")
    if stored or values.ndim == 3:
        return Scan(values)
    return Scan(_plain(apply_rescale(values, data)), colours == "MONOCHROME1", _window(data))


def _plain(values: np.ndarray) -> np.ndarray:
    """Small whole numbers as uint8: such images have 8 bits and need no window."""
    whole = values.min() >= 0 and values.max() <= 255 and (values == np.rint(values)).all()
    return values.astype(np.uint8) if whole and values.dtype.itemsize == 1 else values


def _window(data: Any) -> str:
    """The window that the file proposes."""
    try:
        centre, width = (np.ravel(data[name].value)[0] for name in ("WindowCenter", "WindowWidth"))
        return f" (its own window: [{float(centre) - float(width) / 2:g}, {float(centre) + float(width) / 2:g}])"
    except (KeyError, IndexError, TypeError, ValueError):
        return ""


def read_nifti(content: bytes) -> Scan:
    """The values of a NIfTI file of one slice, rows along its second axis, as viewers show it.

    Raises:
        UnsupportedImageError: nibabel is not installed, or the file is a volume of several slices.
        Exception: whatever nibabel raises for damaged files.
    """
    try:
        import nibabel
    except ImportError as error:
        raise UnsupportedImageError(f"a NIfTI (or gzip) file; it is read with nibabel: {EXTRA}") from error
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    image: Any = nibabel.Nifti1Image.from_bytes(content)
    shape = [n for n in image.shape if n != 1]
    if len(shape) > 2:
        raise UnsupportedImageError(f"a NIfTI volume of shape {tuple(image.shape)}; {SLICES}")
    values = np.asanyarray(image.dataobj)
    return Scan(values.reshape([*shape, 1, 1][:2]).T)
