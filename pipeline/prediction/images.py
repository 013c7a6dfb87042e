"""Pictures as people have them: found in folders and by patterns, read whatever their mode, named without collision."""

import re
import warnings
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
OWN = re.compile(r"_(mask|overlay|probability-\d.*)\.png$")  # what `sward predict` writes; no input below `out`
PATTERN = re.compile(r"[*?[]")
WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # grey of 16 bits


def find_images(paths: Sequence[Path], out: Path) -> tuple[dict[Path, Path], dict[Path, str]]:
    """(image -> its root, the folder its name is relative to; path -> why there is nothing to predict)."""
    images: dict[Path, Path] = {}
    failed: dict[Path, str] = {}
    for path in paths:
        found, reason = look(path)
        found = {p: root for p, root in found.items() if not is_own(p, out)}
        images |= {p: root for p, root in found.items() if p not in images}
        if not found:
            failed[path] = reason
    return images, failed


def look(path: Path) -> tuple[dict[Path, Path], str]:
    """(image -> root below or behind ``path``, what to say where nothing is found)."""
    if path.is_file():
        return {path: path.parent}, "it is a result of this command, in its output folder"
    if path.is_dir():
        inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
        return dict.fromkeys(inside, path), f"no images in this folder (looked for {', '.join(SUFFIXES)})"
    if PATTERN.search(str(path)):
        fixed = Path(*takewhile(lambda part: not PATTERN.search(part), path.parts))
        matched = sorted(fixed.glob(str(path.relative_to(fixed))))
        return {p: fixed for p in matched if p.is_file()}, "no file matches this pattern"
    return {}, "no such file or folder"


def is_own(path: Path, out: Path) -> bool:
    """Whether this command wrote it."""
    return bool(OWN.search(path.name)) and path.resolve().is_relative_to(out.resolve())


def output_names(images: dict[Path, Path]) -> dict[Path, Path]:
    """Image -> name below the output folder, without suffix; longer names only for those that would collide."""
    ways: list[Callable[[Path, Path], Path]] = [
        lambda path, root: path.relative_to(root).with_suffix(""),
        lambda path, root: path.relative_to(root),
        lambda path, root: Path(root.resolve().name) / path.relative_to(root),
        lambda path, root: Path(*path.resolve().parts[1:]),
    ]
    names: dict[Path, Path] = {}
    for way in ways:
        left = {path: way(path, root) for path, root in images.items() if path not in names}
        proposed = [*names.values(), *left.values()]
        names |= {path: name for path, name in left.items() if proposed.count(name) == 1}
    return names


def read_any(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright: EXIF rotation applied, 16 bits scaled, transparency over black.

    Raises:
        ValueError: empty, several frames, or pixels of floats or 32 bits.
        OSError: not a picture, or a damaged one.
    """
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow only warns of (a bad tag, half of the size it refuses) is read
        with Image.open(path) as opened:
            if (frames := getattr(opened, "n_frames", 1)) > 1:
                raise ValueError(f"{frames} frames in one file; save each as its own file")
            opened.load()
            image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode in WIDE:
        image = narrowed(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save the image with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("RGB"))


def narrowed(image: Image.Image) -> Image.Image:
    """8 bits of 16: 65535 becomes 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"values {values.min()} to {values.max()} have no agreed range; save with 8 or 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def explain(error: Exception) -> str:
    """Why a picture could not be used, for people."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture, or of a format that Pillow does not read; save it as PNG, JPEG or TIFF"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large to be opened safely ({error}); cut it into several files"
    if isinstance(error, OSError) and error.errno is None:  # Pillow's own: the system's have a number
        return f"damaged: {error}; fetch or export the file again"
    return f"{type(error).__name__}: {str(error) or 'no further word'}"
