"""Names the predicted masks of a run: one file per image, whose id can be read back from its path.

Ids are paths without suffix, so they hold ``/``, may be longer than a file name can be, and differ in no more than one
character. In a name, ``/`` is ``%2F`` and ``%`` is ``%25``; a name that is too long goes on in a folder: each part but
the last ends with a single ``%``. Earlier versions wrote ``__`` for ``/``, so that two ids could share a file; files of
their runs are still found.
"""

import re
from pathlib import Path

LONGEST = 200  # bytes of a part; file systems allow 255, and a temporary name adds some
SUFFIX = ".png"


def prediction_file(folder: Path, id: str) -> Path:
    """Path of an image's predicted mask in a run's ``predictions`` folder."""
    *folders, name = parts(escaped(id))
    return folder.joinpath(*(f"{part}%" for part in folders), name + SUFFIX)


def find_prediction(folder: Path, id: str) -> Path:
    """As ``prediction_file``; for a run of an earlier version, the name that it gave the file."""
    path, earlier = prediction_file(folder, id), folder / f"{id.replace('/', '__')}{SUFFIX}"
    return earlier if path != earlier and not path.is_file() and len(earlier.name) < 256 and earlier.is_file() else path


def prediction_id(folder: Path, path: Path) -> str:
    """Id of the image whose mask ``prediction_file`` names ``path``."""
    name = path.relative_to(folder).as_posix().removesuffix(SUFFIX).replace("%/", "")
    pieces = name.split("%")
    return pieces[0] + "".join(chr(int(piece[:2], 16)) + piece[2:] for piece in pieces[1:])


def escaped(id: str) -> str:
    """The id with ``%XX`` for slashes, percent signs, control characters, and a dot at the start (a hidden file)."""
    text = "".join(f"%{ord(c):02X}" if c in "/%\\" or ord(c) < 32 else c for c in id)
    return f"%2E{text[1:]}" if text.startswith(".") else text


def parts(name: str) -> list[str]:
    """The name in parts of at most ``LONGEST`` bytes, none of which ends within a ``%XX``."""
    found = [""]
    for unit in re.findall(r"%..|.", name, re.DOTALL):
        if len((found[-1] + unit).encode(errors="surrogateescape")) > LONGEST:
            found.append("")
        found[-1] += unit
    return found
