"""`sward copy` to a URL: uploads a store, and checks every file against its receipt before.

The order is that of a copy to a folder (`copy.py`): first `copying.json`, then data, metadata and receipts, then plans.
`copying.json` is removed last; while it is there, the objects are not taken for a store. The same command continues an
interrupted upload.
"""

from pathlib import Path
from typing import Any

import google_crc32c

from pipeline.cache.errors import CacheMismatch, StoreDamaged
from pipeline.cache.format.shards import crc32c_of
from pipeline.cache.storage.mirror import COPYING, Mirror
from pipeline.cache.storage.object_store import ObjectInfo, at_once
from pipeline.cache.store import Store
from pipeline.files import canonical
from pipeline.types import Progress


def upload(
    store: Store, mirror: Mirror, marker: Any, files: dict[str, dict[str, int]], small: list[Path], progress: Progress
) -> int:
    """Uploads the files that are not there yet; returns the number of bytes uploaded.

    Args:
        store: a complete store.
        mirror: of the URL to copy to.
        marker: content of `copying.json`, which names the store.
        files: data files by name, with ``bytes`` and ``crc32c``.
        small: all other files but the plans.
        progress: called with bytes done and bytes in total.

    Raises:
        CacheMismatch: the URL holds something else.
        StoreDamaged: a file of the store does not match its receipt; that file is not uploaded.
    """
    there, data = mirror.remote.objects(), canonical(marker)
    require_place(store, mirror, there, data)
    plans = [f"plan/{number:04d}.json" for number in range(len(store.plans))]
    if plans[-1] not in there:
        mirror.remote.put(COPYING, data)
    total, done, put = sum(f["bytes"] for f in files.values()), 0, 0
    for name, facts in files.items():
        if not is_there(mirror, there, name, facts):
            put_checked(store, mirror, name, facts)
            put += facts["bytes"]
        done += facts["bytes"]
        progress(done, total)
    at_once(lambda name: mirror.remote.put(str(name), (store.path / name).read_bytes()), small)
    at_once(lambda name: mirror.remote.put(name, (store.path / name).read_bytes()), plans)
    mirror.remote.delete(COPYING)
    return put


def require_place(store: Store, mirror: Mirror, there: dict[str, ObjectInfo], marker: bytes) -> None:
    """Checks that the URL is empty, or holds an unfinished or complete copy of this store.

    Raises:
        CacheMismatch: it holds something else.
    """
    torn = COPYING in there and mirror.remote.get(COPYING) == marker
    plans = sorted(name for name in there if name.startswith("plan/"))
    own = [f"plan/{number:04d}.json" for number in range(len(store.plans))]
    whole = plans == own and all(mirror.remote.get(name) == (store.path / name).read_bytes() for name in own)
    if there and not torn and not whole:
        raise CacheMismatch(
            f"{mirror.url} holds something else, not (a part of) a copy of {store.location}: "
            f"{', '.join(sorted(there)[:3])}; copy to a new prefix, or remove this one"
        )


def is_there(mirror: Mirror, there: dict[str, ObjectInfo], name: str, facts: dict[str, int]) -> bool:
    """Whether the object exists with the size and checksum of its receipt; reads it whole for that."""
    if name not in there or there[name].bytes != facts["bytes"]:
        return False
    return crc32c_of(mirror.remote.pieces(name, facts["bytes"])) == facts["crc32c"]


def put_checked(store: Store, mirror: Mirror, name: str, facts: dict[str, int]) -> None:
    """Uploads a file if its checksum matches the receipt. The file is held in memory; the largest are shards."""
    data, crc = bytearray(), 0
    for piece in store.files.pieces(name):
        crc = google_crc32c.extend(crc, piece)
        data += piece
    if crc != facts["crc32c"]:
        raise StoreDamaged(
            f"damaged file: {store.location}/{name} (crc32c {crc:08x}, its receipt says {facts['crc32c']:08x}); "
            "`sward verify` lists all damage with its remedy"
        )
    mirror.remote.put(name, bytes(data))
