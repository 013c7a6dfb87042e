"""Recognises files that this program wrote by their content, so that no other file is ever replaced.

A picture carries a PNG text chunk with the program's name and a digest of its pixels; a page carries its heading; the
files of a folder of figures are listed there with their sha256. A file that was edited by hand is no longer the
program's own. A file that already has the bytes to be written may always be written.
"""

import hashlib
import os
from pathlib import Path

from PIL import Image, PngImagePlugin

from pipeline.files import read_json, write_atomic, write_json

SOFTWARE, PIXELS = "Software", "sward-pixels"  # keys of the text chunks; the first is PNG's own for this purpose
NAME = "sward"
HEADING = b'<p class="brand">SWARD '  # of every page; earlier versions wrote it too
LISTING = ".sward-files.json"  # in a folder of figures: file name -> sha256 of what was written


class ForeignFileError(FileExistsError):
    """A file to be written exists and was not written by this program, or was edited since."""


def stamp(picture: Image.Image) -> PngImagePlugin.PngInfo:
    """Text chunks that mark a picture as written by this program; pass them to ``save`` as ``pnginfo``."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(SOFTWARE, NAME)
    chunks.add_text(PIXELS, pixels_digest(picture))
    return chunks


def pixels_digest(picture: Image.Image) -> str:
    """sha256 of mode, size and pixels."""
    return hashlib.sha256(f"{picture.mode} {picture.size} ".encode() + picture.tobytes()).hexdigest()


def is_stamped(path: Path) -> bool:
    """Whether a file is a PNG with this program's mark, edited since or not; reads its first chunks only."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info.get(SOFTWARE) == NAME and PIXELS in picture.info
    except (OSError, ValueError, SyntaxError):
        return False


def is_own_picture(path: Path) -> bool:
    """Whether a file is a marked picture whose pixels are those that were written."""
    if not is_stamped(path):
        return False
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info[PIXELS] == pixels_digest(picture)
    except (OSError, ValueError, SyntaxError):
        return False


def require_own_pictures(*paths: Path) -> None:
    """Checks that writing pictures to these paths replaces nothing of others.

    Raises:
        ForeignFileError: a path exists and is not a picture that this program wrote.
    """
    if foreign := [path for path in paths if os.path.lexists(path) and not is_own_picture(path)]:
        raise ForeignFileError(refusal(foreign[0]))


def write_page(path: Path, page: str) -> None:
    """Writes an HTML page, over nothing but a page of this program.

    Raises:
        ForeignFileError: ``path`` exists and is something else.
    """
    require_own_page(path)
    write_atomic(path, page)


def require_own_page(path: Path) -> None:
    """Raises ForeignFileError if ``path`` exists and is no page of this program; call it before the work."""
    if os.path.lexists(path) and not (path.is_file() and HEADING in path.read_bytes()):
        raise ForeignFileError(refusal(path))


def write_listed(folder: Path, files: dict[str, bytes]) -> None:
    """Writes files into a folder with a listing of them, over nothing but unchanged files of an earlier call.

    Raises:
        ForeignFileError: a file of that name is there that no earlier call wrote, or was edited since; none is written.
    """
    listed = read_json(folder / LISTING) if (folder / LISTING).is_file() else {}
    for name, content in files.items():
        path = folder / name
        own = path.is_file() and sha256(path.read_bytes()) in (sha256(content), listed.get(name))
        if os.path.lexists(path) and not own:
            raise ForeignFileError(refusal(path))
    write_json(folder / LISTING, listed | {name: sha256(content) for name, content in files.items()})
    for name, content in files.items():
        write_atomic(folder / name, content)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def refusal(path: Path) -> str:
    """What is said of a file that is not replaced."""
    return (
        f"{path} exists and was not written by this program (or was edited since), so it is not replaced; "
        "choose another output folder or name, or move the file away"
    )
