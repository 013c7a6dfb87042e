"""Pictures as people have them: found in folders and by patterns, read whatever their mode, named without collision."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, takewhile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.datasets.formats.errors import UnsupportedImageError
from pipeline.datasets.image_files import Reading, decode_image, open_recognised, require_one_picture
from pipeline.own_files import ForeignFileError, is_stamped
from pipeline.prediction.bit_depth import (
    WIDE,
    Window,
    has_wide_colours,
    is_scan,
    narrowed,
    require_full_range,
    scan_pixels,
)
from pipeline.prediction_files import on_any_disk

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".dcm", ".nii", ".nii.gz")
PATTERN = re.compile(r"[*?[]")
ADDRESS = re.compile(r"(https?|ftp|s3|gs|az|file):/", re.IGNORECASE)
MASK = re.compile(r"[_-](mask|label|gt|seg(mentation)?)(_\d+)?$", re.IGNORECASE)  # ends of a mask's name, by its image
NOT_THE_USERS = ("@eaDir", "__MACOSX")  # folders of previews and metadata: Synology, macOS archives

Found = dict[Path, Path]  # image -> its root, the folder its name is relative to


def find_images(paths: Sequence[Path]) -> tuple[Found, dict[Path, str], dict[Path, str]]:
    """(images; path -> why there is nothing to predict; file passed over -> why)."""
    images: Found = {}
    failed: dict[Path, str] = {}
    passed: dict[Path, str] = {}
    for path in paths:
        found, reason = look(path)
        why = {p: not_an_image(p, root, found) for p, root in found.items()}
        if path.is_file():
            why = {path: "it is a result of this command" if is_stamped(path) else ""}
        kept = {p: root for p, root in found.items() if not why[p]}
        images |= {p: root for p, root in kept.items() if p not in images}
        passed |= {p: because for p, because in why.items() if because}
        if not kept:
            failed[path] = reason if not found else next(because for because in why.values() if because)
    return images, failed, {p: because for p, because in passed.items() if p not in failed}


def look(path: Path) -> tuple[Found, str]:
    """(image -> root below or behind ``path``, what to say where nothing is found)."""
    if path.is_file():
        return {path: path.parent}, ""
    if path.is_dir():
        inside = [p for p in walk(path) if p.name.lower().endswith(SUFFIXES)]
        return dict.fromkeys(inside, path), f"no images in this folder (looked for {', '.join(SUFFIXES)})"
    if ADDRESS.match(str(path)):
        return {}, "an address, which is not fetched; download the picture, and give its file"
    if PATTERN.search(str(path)):
        fixed = fixed_part(path)
        matched = sorted(fixed.glob(str(path.relative_to(fixed))))
        return {p: fixed for p in matched if p.is_file()}, "no file matches this pattern"
    return {}, "no such file or folder"


def walk(folder: Path) -> Iterator[Path]:
    """Files below a folder in order of their paths, also behind symbolic links, each real folder once."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found += [Path(place, name) for name in names]
    return (path for path in sorted(found) if path.is_file())


def fixed_part(pattern: Path) -> Path:
    """The folders before the first wildcard; a folder whose own name has brackets is none."""
    ends = [Path(*pattern.parts[: i + 1]) for i in range(len(pattern.parts))]
    return next(reversed([*takewhile(lambda p: not PATTERN.search(p.name) or p.is_dir(), ends)]), Path())


def not_an_image(path: Path, root: Path, found: Found) -> str:
    """Why a file that was found is passed over; empty if it is a picture to predict."""
    parts = path.relative_to(root).parts
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if any(part in NOT_THE_USERS for part in parts):
        return "previews or metadata of another program"
    if is_stamped(path):
        return "it is a result of this command"
    bare = MASK.sub("", path.stem)
    if bare != path.stem and any(path.with_name(bare + suffix) in found for suffix in SUFFIXES):
        return f"by its name a mask of {bare}; give the file itself to predict it"
    return ""


def output_names(images: Found) -> dict[Path, Path]:
    """Image -> name below the output folder, without suffix; longer names only for those that would collide.

    Names collide that some disks take for one. Where even whole paths do (an image by two paths, or other case), a
    number is added.
    """
    ways: list[Callable[[Path, Path], Path]] = [
        lambda path, root: path.relative_to(root).with_suffix(""),
        lambda path, root: path.relative_to(root),
        lambda path, root: Path(root.resolve().name) / path.relative_to(root),
        lambda path, root: Path(*path.resolve().parts[1:]),
    ]
    names: dict[Path, Path] = {}
    for way in ways:
        left = {path: way(path, root) for path, root in images.items() if path not in names}
        proposed = Counter(on_any_disk(str(name)) for name in [*names.values(), *left.values()])
        names |= {path: name for path, name in left.items() if proposed[on_any_disk(str(name))] == 1}
    taken = {on_any_disk(str(name)) for name in names.values()}
    for path, root in images.items():
        if path not in names:
            name = ways[0](path, root)
            numbered = (name.with_name(f"{name.name}{number}") for number in chain([""], (f"-{n}" for n in count(2))))
            names[path] = next(n for n in numbered if on_any_disk(str(n)) not in taken)
            taken.add(on_any_disk(str(names[path])))
    return {path: names[path] for path in images}


def read_any(path: Path, window: Window | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright: EXIF rotation applied, more bits narrowed to 8, transparency over black.

    Args:
        path: of a JPEG with further pictures in it (previews of a phone) the first is read; likewise of a TIFF whose
            other pages are smaller copies.
        window: values that become 0 and 255, for pictures of more than 8 bits; None: the full range of 16 bits.

    Raises:
        ValueError: empty, several frames, or more than 8 bits of an unknown range.
        OSError: not a picture, or a damaged one.
    """
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with path.open("rb") as file:
        scan = is_scan(file.read(348))
    if scan:
        return scan_pixels(path.read_bytes(), window)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow only warns of (a bad tag, half of the size it refuses) is read
        with open_recognised(path) as opened:
            wide_colours = has_wide_colours(opened)  # before anything reads on: that empties the list of tiles
            require_one_picture(opened)
            if wide_colours and window is not None:  # Pillow keeps their upper 8 bits only
                return decode_image(path.read_bytes(), Reading(window))
            opened.load()
            image: Image.Image = ImageOps.exif_transpose(opened)
    if wide_colours:
        require_full_range(image)
    if image.mode in WIDE:
        image = narrowed(image, window)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("RGB"))


def explain(error: Exception) -> str:
    """Why a picture could not be used, for people."""
    if isinstance(error, UnidentifiedImageError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"too large to be opened safely ({error}); cut it into several files"
    if isinstance(error, ForeignFileError | UnsupportedImageError):
        return str(error)
    if isinstance(error, OSError) and error.errno is None:  # Pillow's own: the system's have a number
        return f"damaged: {error}; fetch or export the file again"
    return f"{type(error).__name__}: {str(error) or 'no further word'}"
