"""`sward prune`: lists files in a store's folder that the store does not use; removes them with --yes.

It keeps plans, receipts of planned units, the files named in them, Zarr metadata of the arrays that the plans describe,
timing and the lock. All other files were left by killed processes (`tmp/`, `*.partial`, shards without a receipt), or
by appended tensors whose plan was removed.

A symbolic link that leads to kept files (``train`` on a larger disk) is kept, and the files behind it are looked at as
the others are. Other links are removed themselves; what they point to is left alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.codecs import CODECS
from pipeline.cache.manifest.appended import appended_specs, plan_path, read_named, unit_receipt_path
from pipeline.cache.manifest.records import TIMING, plan_units, read_plans, receipt_path
from pipeline.cache.storage.disk_errors import explain_disk_errors
from pipeline.cache.storage.mirror import require_local
from pipeline.files import locked


def prune(path: Path, remove: bool = False) -> dict[Path, int]:
    """Finds the files in a store's folder that the store does not use; ``remove`` deletes them.

    Returns:
        Size in bytes of each such file.

    Raises:
        FileNotFoundError: there is no store; in any other folder, every file would count as unused.
        Busy: a process is writing the store.
        ValueError: the store is at a URL.
        StoreDamaged: a plan or receipt is damaged; the message names it.
    """
    require_local(path, "sward prune")
    if not read_plans(path):
        raise FileNotFoundError(
            f"no feature store at {path}: nothing is removed from other folders; give the folder of a store"
        )
    with explain_disk_errors(path), locked(path):
        kept = set(referenced(path))
        files = [p for p in walk(path, {folder for p in kept for folder in p.parents}) if p not in kept]
        found = {p: p.lstat().st_size for p in files}
        if remove:
            for file in found:
                file.unlink()
            remove_empty_folders(path)
    return found


def referenced(path: Path) -> Iterator[Path]:
    """Yields the path of every file that belongs to the store."""
    yield from (path / ".lock", path / TIMING, path / "zarr.json")
    yield from (path / "plan").glob("[0-9]*.json")
    plans = read_plans(path)
    appended = read_named(plan_path(path)) if plan_path(path).is_file() else None
    for subset in ("train", "val", "test"):
        yield path / subset / "zarr.json"
        names = array_names(plans[0]) | set(appended_specs(appended, subset) if appended else ())
        yield from (path / subset / name / "zarr.json" for name in names)
    for unit in (unit for plan in plans for unit in plan_units(plan)):
        if receipt := unit.receipt(path):
            yield receipt_path(path, unit.name)
            yield from (path / file for file in receipt["files"])
        own = unit_receipt_path(path, unit.name)
        if appended and own.is_file():
            yield own
            yield from (path / file for file in read_named(own)["files"])
    if appended:
        yield plan_path(path)


def array_names(plan: dict[str, Any]) -> set[str]:
    """Names of a plan's arrays: image, label and those of the levels."""
    any_size = (64, 64)  # the names do not depend on it; 64 is a multiple of every level's stride
    return set(array_specs(CODECS[plan["identity"]["precision"]], plan["channels"], any_size))


def walk(path: Path, needed: set[Path]) -> list[Path]:
    """Files below ``path`` and links, sorted; goes through links to ``needed`` folders, and lists the others."""
    found: list[Path] = []
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and (entry in needed or not entry.is_symlink()):
            found += walk(entry, needed)
        elif entry not in needed and (entry.is_file() or entry.is_symlink()):
            # A link in ``needed`` comes here only if it leads nowhere: its disk is not there now.
            found.append(entry)
    return sorted(found)


def remove_empty_folders(path: Path) -> None:
    """Removes empty folders below ``path``, the deepest first; not links, nor what is behind them."""
    for folder in sorted((p for p in path.rglob("*") if p.is_dir() and not p.is_symlink()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
