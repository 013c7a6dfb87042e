"""Local folder with the small files of a remote store (plans, receipts, metadata, full labels).

Opening the store downloads those files that are new or have changed. Code that works on a store works on this folder;
the shards stay remote and are read by byte range (`range_reader.py`). A writer computes a unit in a local folder of its
own, uploads the unit's files, and puts the receipt last, on condition that there is none yet. Readers and restarts
trust only remote receipts. There is no lock: two writers of the same configuration put the same bytes.
"""

import fcntl
import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.cache.errors import CacheMismatch, RemoteError
from pipeline.cache.manifest.records import TIMING
from pipeline.cache.manifest.sealed import sealed, write_sealed
from pipeline.cache.storage.object_store import ObjectInfo, Remote, at_once
from pipeline.files import read_json, write_atomic, write_json
from pipeline.paths import URLS, with_urls

OWN = ".remote"  # folder for the mirror's own files: URL, lock, tags of the objects
COPYING = "copying.json"  # marks an unfinished copy, which must not be taken for a store (`tools/copy.py`)
TIMING_EVERY = 60.0  # seconds between uploads of timing.jsonl
FOLDERS = ("plan", "receipts", "appended", "full_labels")  # of the store, mirrored whole


class Mirror:
    """Local folder ``path`` that mirrors the small files of the store at ``url``."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url, self.remote = path, url, Remote(url)
        self.timed = time.monotonic()

    def pull(self) -> dict[str, ObjectInfo]:
        """Updates the folder to the store's small objects; returns every object of the store by name.

        Raises:
            FileNotFoundError: there is no store yet, only an unfinished copy.
        """
        with self._alone():
            there = self.remote.objects()
            if COPYING in there:
                raise FileNotFoundError(
                    f"no feature store at {self.url} yet: a copy to it is unfinished; run that copy again"
                )
            wanted = {name: f for name, f in there.items() if mirrored(name)}
            known = self._known()
            for file in self._files():
                name = str(file.relative_to(self.path))
                if name not in wanted and not name.startswith("full_labels/"):  # named by content: never stale
                    file.unlink(missing_ok=True)
            new = [n for n, f in wanted.items() if known.get(n) != f.tag or size_of(self.path / n) != f.bytes]
            at_once(self._fetch, new)
            write_json(self.path / OWN / "tags.json", {name: f.tag for name, f in wanted.items()})
        return there

    def push(self) -> None:
        """Uploads the plans that are not there yet, then Zarr metadata that differs, then timing.jsonl.

        Raises:
            CacheMismatch: another plan is there: two writers with different settings started at the same time.
        """
        for plan in sorted((self.path / "plan").glob("[0-9]*.json")):
            name = str(plan.relative_to(self.path))
            if not self.remote.create(name, plan.read_bytes()):
                raise CacheMismatch(
                    f"another extraction with other settings has just written {self.url}/{name}; run this command "
                    "again: it continues that plan or lists the differences"
                )
        at_once(self._put_if_other, sorted(self.path.rglob("zarr.json")))
        self._put_timing()

    def require_own_place(self) -> None:
        """Raises CacheMismatch if the URL holds objects that are not a store: the new store would mix with them."""
        there = self.remote.objects()
        if (there and "plan/0000.json" not in there) or COPYING in there:
            others = ", ".join(sorted(there)[:3])
            raise CacheMismatch(f"{self.url} is not a store, but holds {others}; set store to a new prefix")

    def commit(self, name: str, receipt: dict[str, Any]) -> None:
        """Uploads the receipt's files, then the receipt, then removes the local files.

        Raises:
            CacheMismatch: another writer's receipt of this unit is there, for different bytes.
        """
        self._withdraw(name, receipt)
        if self.remote.get(name) is None:
            try:
                at_once(lambda file: self.remote.put(file, self.path / file), receipt["files"])
            except FileNotFoundError:  # a worker that shares this folder has committed the same unit
                if self.remote.get(name) is None:
                    raise
        data = sealed(receipt)
        if not self.remote.create(name, data) and not self._same_files(name, receipt):
            raise CacheMismatch(
                f"another extraction has written {self.url}/{name} with different bytes (different GPU, CPU or "
                f"torch?); stop one of them, run `sward verify {self.url}`, then this command again"
            )
        write_atomic(self.path / name, data)
        for done in receipt["files"]:
            (self.path / done).unlink(missing_ok=True)
        if time.monotonic() - self.timed > TIMING_EVERY:
            self._put_timing()

    def _withdraw(self, name: str, receipt: dict[str, Any]) -> None:
        """Removes a remote receipt for other records: one that a cancelled extension left.

        The receipt is searched for the digest instead of being parsed: its bytes are canonical JSON, and a damaged one,
        on which parsing would fail, is removed too if it lacks the digest.
        """
        remote = self.remote.get(name)
        if remote is not None and f'"records_digest": "{receipt["records_digest"]}"'.encode() not in remote:
            self.remote.delete(name)

    def _same_files(self, name: str, receipt: dict[str, Any]) -> bool:
        self._fetch(name)
        return read_json(self.path / name).get("files") == receipt["files"]

    def _fetch(self, name: str) -> None:
        data = self.remote.get(name)
        if data is None:
            raise RemoteError(f"{self.url}/{name}: removed while it was being read; run this again")
        write_atomic(self.path / name, data)

    def _put_if_other(self, file: Path) -> None:
        name, data = str(file.relative_to(self.path)), file.read_bytes()
        if self.remote.get(name) != data:
            self.remote.put(name, data)

    def _put_timing(self) -> None:
        """Uploads timing.jsonl; failures are ignored, because it is not part of the store's content."""
        if not (self.path / TIMING).is_file():
            return
        self.timed = time.monotonic()
        with suppress(RemoteError):
            self.remote.put(TIMING, (self.path / TIMING).read_bytes())

    def _files(self) -> list[Path]:
        return [p for p in self.path.rglob("*") if p.is_file() and OWN not in p.parts and p.name != ".lock"]

    def _known(self) -> dict[str, str]:
        file = self.path / OWN / "tags.json"
        return read_json(file) if file.is_file() else {}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the folder's lock: one process at a time changes it."""
        (self.path / OWN).mkdir(parents=True, exist_ok=True)
        with (self.path / OWN / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.path / OWN / "url.json").is_file():
                write_json(self.path / OWN / "url.json", self.url)
            yield


def mirrored(name: str) -> bool:
    """Whether an object is one of the small files that are mirrored: anything but a shard."""
    return name.split("/")[0] in FOLDERS or name.rsplit("/")[-1] == "zarr.json" or name == TIMING


def size_of(file: Path) -> int | None:
    """Size in bytes of a local file; None if it is missing."""
    return file.stat().st_size if file.is_file() else None


def mirror_of(path: Path) -> Mirror | None:
    """The mirror whose folder ``path`` is; None if the folder is a local store."""
    url = URLS.get(str(path))
    if url is None and (path / OWN / "url.json").is_file():
        url = URLS[str(path)] = read_json(path / OWN / "url.json")
    return _mirror(path, url) if url else None


@functools.cache
def _mirror(path: Path, url: str) -> Mirror:
    return Mirror(path, url)


def write_receipt(path: Path, file: Path, receipt: dict[str, Any]) -> None:
    """Writes a unit's receipt, which completes the unit; at a URL, uploads the unit's files before it."""
    if mirror := mirror_of(path):
        mirror.commit(str(file.relative_to(path)), receipt)
    else:
        write_sealed(file, receipt)


def require_local(path: Path, verb: str) -> None:
    """Raises ValueError for a store at a URL, as ``verb`` works on local stores only."""
    if str(path) in URLS:
        url = with_urls(path)
        raise ValueError(f"{verb} works on local stores, not on {url}; copy it here first: sward copy {url} FOLDER")
