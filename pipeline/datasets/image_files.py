"""Image and mask files to arrays. A file whose pixels are open to interpretation is refused."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from pipeline.datasets.card import Subset
from pipeline.datasets.mask_encodings import Encoding, MaskError, is_transparent
from pipeline.datasets.problems import DatasetError, Problem

ORIENTATION = 0x0112  # EXIF tag; 1 means as stored


class UnsupportedImageError(ValueError):
    """A file that decodes, but whose pixels depend on a choice that only its owner can make."""


@dataclass(frozen=True)
class Sample:
    """One image with its mask.

    id: name within the set, for people. subset: train, val or test. sequence: the video it comes from.
    digest: sha256 of the image's and the mask's bytes, each preceded by its length: the sample's identity.
    fold: the part of a cross-validation that it belongs to; None in other splits. group: what is kept whole
    there, the sequence or the image itself.
    """

    id: str
    subset: Subset
    image_path: Path
    mask_path: Path
    sequence: str
    digest: str
    encoding: Encoding
    fold: int | None = None
    group: str | None = None


def sample_digest(image: bytes, mask: bytes) -> str:
    """The sample's identity, of its files' bytes."""
    both = hashlib.sha256()
    for content in (image, mask):
        both.update(len(content).to_bytes(8, "little") + content)
    return both.hexdigest()


def read_image(sample: Sample) -> np.ndarray:
    """The image as RGB, (H, W, 3) uint8.

    Raises:
        DatasetError: the file is unreadable or of a form that is not supported.
    """
    try:
        return decode_image(sample.image_path.read_bytes())
    except Exception as error:
        raise DatasetError(sample.id, [explain(sample.image_path, error)]) from error


def read_label(sample: Sample) -> np.ndarray:
    """The mask as train ids, (H, W) uint8, 255 where nothing is counted.

    Raises:
        DatasetError: the file is unreadable, or holds values that the card's encoding does not name.
    """
    try:
        return decode_label(sample.mask_path.read_bytes(), sample.encoding)
    except Exception as error:
        raise DatasetError(sample.id, [explain(sample.mask_path, error)]) from error


def decode_image(content: bytes) -> np.ndarray:
    """(H, W, 3) uint8 of an image file; grey, palette and opaque RGBA become RGB.

    Raises:
        UnsupportedImageError: 16 bits, CMYK, transparency, several frames, or turned by EXIF.
    """
    image = _open(content)
    if image.mode not in ("1", "L", "P", "RGB", "RGBA", "LA") or ";16" in str(image.tile):
        raise UnsupportedImageError(f"pixel format {image.mode} of {_bits(image)}; convert to 8-bit RGB")
    image.load()
    if is_transparent(image):
        raise UnsupportedImageError("has transparent pixels; save it without an alpha channel")
    return np.array(image.convert("RGB"))


def decode_label(content: bytes, encoding: Encoding) -> np.ndarray:
    """(H, W) uint8 train ids of a mask file.

    Raises:
        UnsupportedImageError: several frames, floats, or turned by EXIF.
        MaskError: values that the encoding does not name.
    """
    mask = _open(content)
    if mask.mode in ("F", "CMYK", "LAB", "HSV"):
        raise UnsupportedImageError(f"pixel format {mask.mode}; save the mask as an 8-bit PNG")
    mask.load()
    return encoding.decode(mask)


def _open(content: bytes) -> ImageFile.ImageFile:
    image = Image.open(io.BytesIO(content))
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise UnsupportedImageError(f"{frames} frames in one file; save each as its own file")
    # Checked before loading: Pillow turns TIFFs by itself, other formats not, and masks rarely carry the tag.
    if (turned := image.getexif().get(ORIENTATION, 1)) not in (0, 1):
        raise UnsupportedImageError(f"EXIF orientation {turned}; turn the pixels and remove the tag")
    return image


def _bits(image: ImageFile.ImageFile) -> str:
    wide = image.mode.startswith("I") or ";16" in str(image.tile)
    return "more than 8 bits a channel" if wide else "another colour model"


def explain(path: Path, error: Exception) -> Problem:
    """The problem of ``path`` that ``error`` tells of."""
    if isinstance(error, UnsupportedImageError):
        return Problem("unsupported", str(path), str(error))
    if isinstance(error, MaskError):
        return Problem("mask values", str(path), str(error))
    return Problem("unreadable", str(path), f"{type(error).__name__}: {str(error) or 'no further word'}")
