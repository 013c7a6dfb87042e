"""Plans and receipts carry their own checksum, so that a changed byte in one is noticed when it is read.

The last 8 digits of the line ``"seal": "…"`` are the crc32c of the file with zeros in their place. Files written before
there were seals have none: they are read as they are, and `sward verify` says so.
"""

import json
import re
from pathlib import Path
from typing import Any

import google_crc32c

from pipeline.cache.errors import StoreDamaged
from pipeline.files import canonical, write_atomic

SEAL = re.compile(rb'^ "(.{4})": "([0-9a-f]{8})"', re.MULTILINE)  # no other line looks like it
BLANK = "0" * 8


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Canonical JSON with its seal, atomically."""
    write_atomic(path, sealed(value))


def sealed(value: dict[str, Any]) -> bytes:
    """Canonical JSON with its seal."""
    crc = google_crc32c.value(canonical(value | {"seal": BLANK}))
    return canonical(value | {"seal": f"{crc:08x}"})


def read_sealed(path: Path, remedy: str) -> dict[str, Any]:
    """The file's value, without its seal.

    Raises:
        StoreDamaged: its bytes are not those that were written; names it and the remedy.
    """
    data = path.read_bytes()
    try:
        value = json.loads(data)
    except ValueError as error:
        raise StoreDamaged(f"damaged file: {path} ({error}); {remedy}") from error
    if not isinstance(value, dict) or not (("seal" not in value and not SEAL.search(data)) or seal_is_whole(data)):
        raise StoreDamaged(f"damaged file: {path} (its bytes do not match its own checksum); {remedy}")
    value.pop("seal", None)
    return value


def unsealed(path: Path) -> bool:
    """Whether the file has no seal to check it by."""
    return not SEAL.search(path.read_bytes())


def seal_is_whole(data: bytes) -> bool:
    """Whether there is a seal and it is that of the bytes."""
    found = SEAL.search(data)
    if not found or found[1] != b"seal":
        return False
    blank = data[: found.start(2)] + BLANK.encode() + data[found.end(2) :]
    return google_crc32c.value(blank) == int(found[2], 16)
