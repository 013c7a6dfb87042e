"""`sward copy`: copies a store to a folder or URL, and checks every file against its receipt on the way.

The target is written in this order:

    copying.json      names the store that is copied; removed at the very end
    data              shards and full labels, those of appended tensors among them
    zarr.json …       metadata, then receipts, then appended/plan.json
    plan/             by one rename: before it there is no store

A file gets its final name only when it is complete and on the disk. The same command therefore continues an interrupted
copy: it reads what is there, compares checksums and copies the rest. The source is a folder or a URL; `upload.py` makes
the copies to a URL.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from pipeline.cache.errors import CacheMismatch, StoreDamaged
from pipeline.cache.format.shards import file_crc32c
from pipeline.cache.manifest.appended import plan_path, unit_receipt_path
from pipeline.cache.manifest.identity import digest, require_apart
from pipeline.cache.manifest.records import TIMING, read_plans, receipt_path
from pipeline.cache.manifest.zarr_metadata import ensure_metadata
from pipeline.cache.storage.disk_errors import explain_disk_errors
from pipeline.cache.storage.mirror import COPYING, mirror_of
from pipeline.cache.store import Store
from pipeline.cache.tools.upload import upload
from pipeline.files import PARTIAL, atomic, locked, read_json, remove_partials, sync_folder, write_atomic, write_json
from pipeline.types import Progress


@dataclass(frozen=True)
class Copy:
    """Result of one call.

    Attributes:
        path: the target.
        files: number of data files in the store.
        bytes: their size.
        copied: bytes that this call copied.
    """

    path: Path
    files: int
    bytes: int
    copied: int


def copy(source: Path, target: Path, progress: Progress = lambda done, total: None, follow_links: bool = False) -> Copy:
    """Copies the complete store ``source`` to ``target``, or continues an interrupted copy.

    Args:
        source: folder of the store, or local folder that stands for its URL.
        target: new folder, or local folder that stands for a URL.
        progress: called with bytes done and bytes in total.
        follow_links: also copy files that symbolic links of the store place outside its folder.

    Raises:
        FileNotFoundError, StoreIncomplete: there is no complete store to copy.
        LeavesStoreError: a symbolic link leads out of the store, and ``follow_links`` is False.
        StoreDamaged: a file does not match its receipt; that file is not copied.
        CacheMismatch: ``target`` holds something else.
        NotWritable: the disk of ``target`` is full or read-only.
        RemoteError: a store at a URL cannot be reached, read or written.
    """
    store = Store(source)
    receipts = [*store.receipts.values(), *(store.appended["receipts"].values() if store.appended else [])]
    files = {file: facts for receipt in receipts for file, facts in receipt["files"].items()}
    if not store.mirror and not follow_links:
        require_no_links(store.path, [*files, *small_files(store), *plan_files(store)])
    if mirror := mirror_of(target):
        marker = {"copy of": store_digest(store)}
        copied = upload(store, mirror, marker, files, small_files(store), progress)
        return Copy(target, len(files), sum(f["bytes"] for f in files.values()), copied)
    require_place(store, target)
    total, done, copied = sum(f["bytes"] for f in files.values()), 0, 0
    with explain_disk_errors(target), locked(target):
        remove_partials(target)
        if not read_plans(target):
            write_json(target / COPYING, {"copy of": store_digest(store)})
        for file, facts in files.items():
            if not is_there(target / file, facts):
                copy_checked(store, file, target / file, facts)
                copied += facts["bytes"]
            done += facts["bytes"]
            progress(done, total)
        for file in small_files(store):
            write_atomic(target / file, (store.path / file).read_bytes())
        ensure_metadata(target, store.plans, store.appended)
        copy_plans(store, target)
        (target / COPYING).unlink(missing_ok=True)
    return Copy(target, len(files), total, copied)


class LeavesStoreError(ValueError):
    """A symbolic link in a store leads out of it: copying through it may copy files that are not the store's."""


def require_no_links(folder: Path, files: Iterable[str | Path]) -> None:
    """Raises LeavesStoreError for the first file that is really outside ``folder``, because of a symbolic link."""
    inside = folder.resolve()
    for file in files:
        if not (real := (folder / file).resolve()).is_relative_to(inside):
            raise LeavesStoreError(
                f"{folder / file} is really {real}, outside the store; if you made that link, add --follow-links, "
                "else don't trust this store"
            )


def plan_files(store: Store) -> list[str]:
    """Paths of all plans, in the store."""
    return [f"plan/{number:04d}.json" for number in range(len(store.plans))]


def store_digest(store: Store) -> str:
    """Digest of a store's plans, by which a continued copy recognises the store it was begun from."""
    return digest(store.plans)


def require_place(store: Store, target: Path) -> None:
    """Checks that ``target`` is empty, or holds an unfinished or complete copy of this store.

    Raises:
        CacheMismatch: it holds something else, or overlaps with the store.
    """
    require_apart(store.path, target, "copy to a folder of its own")
    there = [p.name for p in target.iterdir() if p.name != ".lock"] if target.is_dir() else []
    there += [target.name] if target.is_file() else []
    marker = target / COPYING
    same = (
        digest(read_plans(target)) == store_digest(store)
        if (target / "plan").is_dir()
        else marker.is_file() and read_json(marker) == {"copy of": store_digest(store)}
    )
    if [name for name in there if not PARTIAL.fullmatch(name)] and not same:
        raise CacheMismatch(
            f"{target} holds something else, not (a part of) a copy of {store.path}: {', '.join(sorted(there)[:3])}; "
            "copy to a new folder, or remove this one"
        )


def is_there(path: Path, facts: dict[str, int]) -> bool:
    """Whether the file exists with the size and checksum of its receipt."""
    return path.is_file() and path.stat().st_size == facts["bytes"] and file_crc32c(path) == facts["crc32c"]


def copy_checked(store: Store, file: str, target: Path, facts: dict[str, int]) -> None:
    """Copies a file, which gets its final name only if its checksum matches the receipt."""
    with atomic(target) as out:
        crc = pump(store.files.pieces(file), out)
        if crc != facts["crc32c"]:
            sums = f"crc32c {crc:08x}, its receipt says {facts['crc32c']:08x}"
            raise StoreDamaged(
                f"damaged file: {store.location}/{file} ({sums}); `sward verify` lists all damage with its remedy"
            )


def pump(pieces: Iterable[bytes], out: Any) -> int:
    """Writes pieces to a file; returns their crc32c."""
    crc = 0
    for piece in pieces:
        crc = google_crc32c.extend(crc, piece)
        out.write(piece)
    return crc


def small_files(store: Store) -> list[Path]:
    """Paths in the store of Zarr metadata, timing and receipts, and last of the plan of appended tensors."""
    arrays = {
        f"{subset}/{name}" for subset, records in store.records.items() if records for name in store.specs(subset)
    }
    groups = {"", "train", "val", "test"}
    files = [store.path / place / "zarr.json" for place in sorted(groups | arrays)]
    files += [store.path / TIMING, *(receipt_path(store.path, unit) for unit in store.receipts)]
    if store.appended:
        files += [unit_receipt_path(store.path, unit) for unit in store.appended["receipts"]] + [plan_path(store.path)]
    return [file.relative_to(store.path) for file in files if file.is_file()]


def copy_plans(store: Store, target: Path) -> None:
    """Copies all plans and makes them appear at once: with only some of them the copy would be another store."""
    if (target / "plan").is_dir():
        return
    aside = target / "plan.partial"
    shutil.rmtree(aside, ignore_errors=True)
    for file in plan_files(store):
        write_atomic(aside / Path(file).name, (store.path / file).read_bytes())
    aside.rename(target / "plan")
    sync_folder(target)
