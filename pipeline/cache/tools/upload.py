"""`sward copy` to a URL: every file checked against its receipt before it is put.

In the order of a copy to a folder (`copying.py`): first `copying.json`, then data, metadata and receipts, then plans;
`copying.json` is removed last, and while it is there nobody takes the objects for a store. The same command continues.
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
    """Put what is not there; returns the bytes put.

    Args:
        store: a complete store.
        mirror: of the URL to copy to.
        marker: what `copying.json` says of the store.
        files: data by name: bytes and crc32c.
        small: everything else but the plans, in order.
        progress: called with bytes done and in all.

    Raises:
        CacheMismatch: something else is there.
        StoreDamaged: a file of the store is not what its receipt says; nothing of it is copied.
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
    """Nothing, a torn copy of this store, or a whole one. Raises CacheMismatch: it is something else."""
    torn = COPYING in there and mirror.remote.get(COPYING) == marker
    plans = sorted(name for name in there if name.startswith("plan/"))
    own = [f"plan/{number:04d}.json" for number in range(len(store.plans))]
    whole = plans == own and all(mirror.remote.get(name) == (store.path / name).read_bytes() for name in own)
    if there and not torn and not whole:
        raise CacheMismatch(
            f"{mirror.url} holds something else than (a part of) a copy of {store.location}: "
            f"{', '.join(sorted(there)[:3])}; copy to a new prefix, or remove that one"
        )


def is_there(mirror: Mirror, there: dict[str, ObjectInfo], name: str, facts: dict[str, int]) -> bool:
    if name not in there or there[name].bytes != facts["bytes"]:
        return False
    return crc32c_of(mirror.remote.pieces(name, facts["bytes"])) == facts["crc32c"]


def put_checked(store: Store, mirror: Mirror, name: str, facts: dict[str, int]) -> None:
    """Put a file whose checksum is that of its receipt; a shard fits into memory."""
    data, crc = bytearray(), 0
    for piece in store.pieces(name):
        crc = google_crc32c.extend(crc, piece)
        data += piece
    if crc != facts["crc32c"]:
        raise StoreDamaged(
            f"damaged file: {store.location}/{name} (crc32c {crc:08x}, its receipt says {facts['crc32c']:08x}); "
            "`sward verify` names all of them and the remedy"
        )
    mirror.remote.put(name, bytes(data))
