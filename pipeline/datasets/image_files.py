"""Reads image and mask files as arrays. A file whose pixels are open to interpretation is refused."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from pipeline.datasets.formats.arrays import mask_image, read_npy
from pipeline.datasets.formats.errors import UnsupportedImageError
from pipeline.datasets.formats.medical import Scan, read_dicom, read_nifti
from pipeline.datasets.formats.recognise import is_dicom, is_nifti, is_npy, unreadable
from pipeline.datasets.formats.wide import is_wide, narrowed, wide_values
from pipeline.datasets.mask_encodings import Encoding
from pipeline.datasets.masks.values import MaskError, is_transparent
from pipeline.datasets.problems import Problem

ORIENTATION = 0x0112  # EXIF tag; 1 means as stored
REDUCED = 254  # TIFF tag NewSubfileType; bit 0: a smaller copy of another page
MODES = ("1", "L", "P", "PA", "RGB", "RGBA", "LA")


@dataclass(frozen=True)
class Reading:
    """How a card wants its images read. window: values that become 0 and 255. stored: EXIF orientation is ignored."""

    window: tuple[float, float] | None = None
    stored: bool = False


PLAIN = Reading()


@dataclass(frozen=True)
class Picture:
    """A decoded image. pixels: (H, W, 3) uint8. orientation: its EXIF tag, 1 without one."""

    pixels: np.ndarray
    orientation: int = 1
    transparent: bool = False


def decode_image(content: bytes, reading: Reading = PLAIN) -> np.ndarray:
    """(H, W, 3) uint8 of an image file; see ``decode_picture``."""
    return decode_picture(content, reading).pixels


def decode_picture(content: bytes, reading: Reading) -> Picture:
    """An image file as RGB: upright, transparency over black, more than 8 bits by the window.

    Raises:
        UnsupportedImageError: more than 8 bits without a window (or 8 with one), CMYK, several frames.
        Exception: whatever a decoder raises for broken bytes.
    """
    if is_dicom(content) or is_nifti(content):
        return Picture(pixels_of(read_scan(content), reading.window))
    if is_npy(content):
        raise UnsupportedImageError("an .npy array; masks may be .npy, images not: save it as PNG")
    image = open_picture(content)
    if is_wide(image):  # asked first: reading EXIF of a PNG decodes it, to 8 bits
        form = image.mode
        values = narrowed(wide_values(image, content), reading.window, form)
        return _upright(_as_rgb(values), image, reading)
    if image.mode not in MODES:
        raise UnsupportedImageError(f"pixel format {image.mode} of another colour model; convert to 8-bit RGB")
    if reading.window:
        raise UnsupportedImageError("8 bits a channel, but the card gives bits or window; expected more bits")
    image.load()
    transparent = is_transparent(image)
    rgb = _over_black(image) if transparent else image.convert("RGB")
    return _upright(np.array(rgb), image, reading, transparent)


def read_scan(content: bytes) -> Scan:
    """A DICOM or NIfTI file."""
    return read_dicom(content) if is_dicom(content) else read_nifti(content)


def pixels_of(scan: Scan, window: tuple[float, float] | None) -> np.ndarray:
    """(H, W, 3) uint8 of a scan; of more than 8 bits by the window.

    Raises:
        UnsupportedImageError: more than 8 bits without a window, or values that are not finite.
    """
    if scan.values.dtype == np.uint8:
        values = scan.values
    else:
        values = narrowed(scan.values, window, str(scan.values.dtype), scan.known)
    return _as_rgb(255 - values if scan.inverted else values)


def _as_rgb(values: np.ndarray) -> np.ndarray:
    return values if values.ndim == 3 else np.stack([values] * 3, -1)


def _over_black(image: Image.Image) -> Image.Image:
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, (0, 0, 0, 255)), colours).convert("RGB")


def _upright(pixels: np.ndarray, image: ImageFile.ImageFile, reading: Reading, transparent: bool = False) -> Picture:
    """The picture turned by its EXIF orientation, unless the card wants it as stored."""
    tag = orientation(image)
    if tag == 1 or image.format == "TIFF":  # Pillow turns a TIFF while it loads it
        if tag != 1 and reading.stored:
            raise UnsupportedImageError(
                "a TIFF with an EXIF orientation is never read as stored; turn it and remove the tag"
            )
        return Picture(pixels, tag, transparent)
    return Picture(pixels if reading.stored else turned(pixels, tag), tag, transparent)


def turned(pixels: np.ndarray, tag: int) -> np.ndarray:
    """Pixels (H, W, …) stored with an EXIF orientation, upright."""
    if tag in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if tag in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if tag in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (as stored) where there is none or a wrong one."""
    tag = image.info.get("stored_orientation") or image.getexif().get(ORIENTATION, 1)
    return tag if tag in range(2, 9) else 1


def decode_label(content: bytes, encoding: Encoding) -> np.ndarray:
    """(H, W) uint8 train ids of a mask file.

    Raises:
        UnsupportedImageError: several frames, fractions, another colour model, or turned by EXIF.
        MaskError: values that the encoding does not name.
    """
    return encoding.decode(open_mask(content))


def open_mask(content: bytes) -> Image.Image:
    """A mask file as a picture of its values.

    Raises:
        UnsupportedImageError: several frames, fractions, another colour model, or turned by EXIF.
    """
    if is_npy(content):
        return mask_image(read_npy(content))
    if is_dicom(content):
        return mask_image(read_dicom(content, stored=True).values)
    if is_nifti(content):
        return mask_image(read_nifti(content).values)
    mask = open_picture(content)
    if mask.mode in ("CMYK", "LAB", "HSV"):
        raise UnsupportedImageError(f"pixel format {mask.mode}; save the mask as an 8-bit PNG")
    if mask.mode.startswith("RGB") and is_wide(mask):
        return mask_image(_one_channel(wide_values(mask, content)))
    if (tag := orientation(mask)) != 1:
        raise UnsupportedImageError(f"EXIF orientation {tag} on a mask; turn the pixels and remove the tag")
    if mask.mode == "F":
        return mask_image(np.asarray(mask))
    mask.load()
    if mask.format == "WEBP":
        mask.info["lossless"] = b"VP8L" in content[:4096]
    return mask


def _one_channel(values: np.ndarray) -> np.ndarray:
    if (values != values[..., :1]).any():
        raise UnsupportedImageError("16 bits a colour; save the mask as an 8-bit PNG")
    return values[..., 0]


def open_picture(content: bytes) -> ImageFile.ImageFile:
    """An opened file with one picture; the first one of a multi-picture JPEG, or of a TIFF with smaller copies of it.

    Raises:
        UnsupportedImageError: not a picture (the message says what it is instead), or several frames.
        Image.DecompressionBombError: too large to be opened.
    """
    image = open_recognised(content)
    require_one_picture(image)
    if image.format == "TIFF":
        image.info["stored_orientation"] = image.getexif().get(ORIENTATION, 1)  # gone after loading
    return image


def open_recognised(file: Path | bytes) -> ImageFile.ImageFile:
    """An opened picture, of a file or of what it holds.

    Raises:
        UnidentifiedImageError: it is none; the message says what the file is instead, where its first bytes show it.
    """
    cause: Exception | None = None
    try:
        opened = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        if not isinstance(opened, ImageFile.StubImageFile):  # known by name alone: HDF5, GRIB, BUFR
            return opened
        opened.close()
    except Image.UnidentifiedImageError as error:
        cause = error
    raise Image.UnidentifiedImageError(unreadable(file if isinstance(file, bytes) else file.read_bytes())) from cause


def require_one_picture(image: ImageFile.ImageFile) -> None:
    """Leaves the file at its first frame.

    Raises:
        UnsupportedImageError: the other frames are not only previews of the first.
    """
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or image.format == "MPO":  # a JPEG of a phone: further pictures are previews or depth
        return
    if image.format == "TIFF":
        copies = 0
        for i in range(1, frames):
            image.seek(i)
            copies += int(image.tag_v2.get(REDUCED, 0)) & 1  # type: ignore[attr-defined]
        image.seek(0)
        frames -= copies
    if frames > 1:
        raise UnsupportedImageError(f"{frames} frames in one file; save each as its own file")


def picture_size(content: bytes, reading: Reading) -> tuple[int, int]:
    """(height, width) that ``decode_picture`` gives, from the header where that is possible."""
    if is_dicom(content) or is_nifti(content):
        return decode_picture(content, reading).pixels.shape[:2]
    image = open_picture(content)
    plain = image.format == "PNG" and b"eXIf" not in content and b"exif" not in content  # else looking decodes it
    lying = not plain and image.format != "TIFF" and not reading.stored and orientation(image) >= 5
    return (image.width, image.height) if lying else (image.height, image.width)


def explain(path: Path, error: Exception) -> Problem:
    """The problem of ``path`` that ``error`` tells of."""
    if isinstance(error, UnsupportedImageError):
        return Problem("unsupported", str(path), str(error))
    if isinstance(error, MaskError):
        return Problem("mask values", str(path), str(error))
    if isinstance(error, Image.UnidentifiedImageError):
        return Problem("unreadable", str(path), str(error))
    return Problem("unreadable", str(path), f"{type(error).__name__}: {str(error) or 'no further word'}")
