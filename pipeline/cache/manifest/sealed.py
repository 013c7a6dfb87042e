"""JSON files with their own crc32c, so that a changed byte is noticed on reading.

The 8 hexadecimal digits in the line ``"seal": "…"`` are the crc32c of the file with zeros in their place. Plans and
receipts are such files. Those of earlier versions lack the line: they are read unchecked, and `sward verify` notes it.
"""

import json
import re
from pathlib import Path
from typing import Any

import google_crc32c
from pydantic import BaseModel, ValidationError

from pipeline.cache.errors import StoreDamaged
from pipeline.documents import Shape, mistakes
from pipeline.files import canonical, write_atomic

# No other line has this form. The key may be any 4 bytes, so that a changed byte in "seal" is noticed too.
SEAL = re.compile(rb'^ "(.{4})": "([0-9a-f]{8})"', re.MULTILINE)
BLANK = "0" * 8  # in place of the checksum while it is computed


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Writes a value as canonical JSON with its checksum, atomically."""
    write_atomic(path, sealed(value))


def sealed(value: dict[str, Any]) -> bytes:
    """Canonical JSON of a value, with its checksum."""
    crc = google_crc32c.value(canonical(value | {"seal": BLANK}))
    return canonical(value | {"seal": f"{crc:08x}"})


def read_sealed(path: Path, remedy: str, shape: type[BaseModel] = Shape) -> dict[str, Any]:
    """Reads the value of a file, without its checksum.

    Args:
        path: the file.
        remedy: what to do if it is damaged.
        shape: model of the entries that are read; files of earlier versions have no checksum.

    Raises:
        StoreDamaged: the bytes are not those that were written; the message names the file and the remedy.
    """
    data = path.read_bytes()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(f"damaged file: {path} ({error}); {remedy}") from error
    if not isinstance(value, dict) or not (("seal" not in value and not SEAL.search(data)) or seal_is_whole(data)):
        raise StoreDamaged(f"damaged file: {path} (its bytes do not match the checksum in it); {remedy}")
    value.pop("seal", None)
    try:
        shape.model_validate(value)
    except ValidationError as error:
        raise StoreDamaged(f"damaged file: {path} ({mistakes(error)}); {remedy}") from error
    return value


def unsealed(path: Path) -> bool:
    """Whether the file has no checksum in it."""
    return not SEAL.search(path.read_bytes())


def seal_is_whole(data: bytes) -> bool:
    """Whether the bytes contain a checksum and match it."""
    line = SEAL.search(data)
    if not line or line[1] != b"seal":
        return False
    blank = data[: line.start(2)] + BLANK.encode() + data[line.end(2) :]
    return google_crc32c.value(blank) == int(line[2], 16)
