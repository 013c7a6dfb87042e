"""Names the predicted masks of a run: one file per image, whose id can be read back from its path.

Ids are paths without suffix, so they hold ``/``, may be longer than a file name can be, and differ in no more than one
character. In a name, ``/`` is ``%2F`` and ``%`` is ``%25``; a name that is too long goes on in a folder: each part but
the last ends with a single ``%``. Some disks take names for one that differ only in case or in the composition of
letters (é as one character or two); such ids get their *exact* form, in which capitals and letters beyond ASCII are
``%XX`` too. Earlier versions wrote ``__`` for ``/``, so that two ids could share a file; files of their runs are still
found.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

LONGEST = 200  # bytes of a part; file systems allow 255, and a temporary name adds some
SUFFIX = ".png"


def on_any_disk(name: str) -> str:
    """What names have in common that some disks take for one: those that differ in case or composition of letters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def alike(ids: Iterable[str]) -> frozenset[str]:
    """The ids that need their exact form, because another one is the same on some disks."""
    every = {id: on_any_disk(id) for id in ids}
    counts = Counter(every.values())
    return frozenset(id for id, common in every.items() if counts[common] > 1)


def prediction_file(folder: Path, id: str, exact: bool = False) -> Path:
    """Path of an image's predicted mask in a run's ``predictions`` folder; ``exact`` for ids that are ``alike``."""
    *folders, name = parts(escaped(id, exact))
    return folder.joinpath(*(f"{part}%" for part in folders), name + SUFFIX)


def find_prediction(folder: Path, id: str) -> Path:
    """As ``prediction_file``, in whichever form is there; for a run of an earlier version, the name that it gave."""
    if (exact := prediction_file(folder, id, exact=True)).is_file():
        return exact
    path, earlier = prediction_file(folder, id), folder / f"{id.replace('/', '__')}{SUFFIX}"
    return earlier if path != earlier and not path.is_file() and len(earlier.name) < 256 and earlier.is_file() else path


def prediction_id(folder: Path, path: Path) -> str:
    """Id of the image whose mask ``prediction_file`` names ``path``."""
    name = path.relative_to(folder).as_posix().removesuffix(SUFFIX).replace("%/", "")
    return unquote(name, errors="surrogateescape")


def escaped(id: str, exact: bool = False) -> str:
    """The id with ``%XX`` for slashes, percent signs, control characters, and a dot at the start (a hidden file).

    ``exact``: also for capitals and for letters beyond ASCII, byte by byte.
    """

    def plain(c: str) -> bool:
        return c not in "/%\\" and ord(c) >= 32 and not (exact and (c.isupper() or not c.isascii()))

    text = "".join(c if plain(c) else "".join(f"%{b:02X}" for b in c.encode(errors="surrogateescape")) for c in id)
    return f"%2E{text[1:]}" if text.startswith(".") else text


def parts(name: str) -> list[str]:
    """The name in parts of at most ``LONGEST`` bytes, none of which ends within a ``%XX``."""
    found = [""]
    for unit in re.findall(r"%..|.", name, re.DOTALL):
        if len((found[-1] + unit).encode(errors="surrogateescape")) > LONGEST:
            found.append("")
        found[-1] += unit
    return found
